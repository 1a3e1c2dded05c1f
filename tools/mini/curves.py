"""Draws the figures of a log as curves: python curves.py unet-log.jsonl curves.png --x seen --y error check attention."""

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT, MARGIN = 760, 300, 50
COLORS = ['#1f5fbf', '#d0453a', '#2f8f4e', '#8a4fd0']


def panel(draw, top: int, points: list[tuple[float, float]], name: str, color: str) -> None:
    xs, ys = [p[0] for p in points], sorted(p[1] for p in points)
    # The first steps are far off and would flatten everything else.
    low, high = ys[0], ys[int(0.97 * (len(ys) - 1))]
    left, right = min(xs), max(xs)

    def place(x, y):
        u = (x - left) / max(1e-9, right - left)
        v = (min(y, high) - low) / max(1e-9, high - low)
        return MARGIN + u * (WIDTH - 2 * MARGIN), top + HEIGHT - MARGIN - v * (HEIGHT - 2 * MARGIN)

    draw.rectangle([MARGIN, top + MARGIN, WIDTH - MARGIN, top + HEIGHT - MARGIN], outline='#bbb')
    draw.line([place(*p) for p in points], fill=color, width=2)
    draw.text((MARGIN, top + 28), f'{name}: last {points[-1][1]:.4g}', fill=color)
    draw.text((4, top + MARGIN), f'{high:.4g}', fill='black')
    draw.text((4, top + HEIGHT - MARGIN - 10), f'{low:.4g}', fill='black')
    draw.text((MARGIN, top + HEIGHT - MARGIN + 4), f'{left:,.0f}', fill='black')
    draw.text((WIDTH - MARGIN - 60, top + HEIGHT - MARGIN + 4), f'{right:,.0f}', fill='black')


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument('log', type=Path)
    arguments.add_argument('out', type=Path)
    arguments.add_argument('--x', default='step')
    arguments.add_argument('--y', nargs='+', required=True)
    a = arguments.parse_args()
    rows = [json.loads(line) for line in a.log.read_text().splitlines()]
    curves = {y: [(r[a.x], r[y]) for r in rows if a.x in r and y in r] for y in a.y}
    curves = {y: points for y, points in curves.items() if len(points) > 1}
    image = Image.new('RGB', (WIDTH, HEIGHT * len(curves)), 'white')
    draw = ImageDraw.Draw(image)
    for k, (name, points) in enumerate(curves.items()):
        panel(draw, k * HEIGHT, points, name, COLORS[k % len(COLORS)])
    image.save(a.out)


if __name__ == '__main__':
    main()
