"""Contact sheets: pictures in a grid, each with its words above."""

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def contact_sheet(pictures: np.ndarray, labels: list[str], path: Path, columns: int = 8, zoom: float = 1.5) -> None:
    side = int(128 * zoom)
    rows = (len(pictures) + columns - 1) // columns
    sheet = Image.new('RGB', (columns * (side + 4), rows * (side + 40)), 'white')
    draw = ImageDraw.Draw(sheet)
    for k, (picture, label) in enumerate(zip(pictures, labels)):
        x, y = k % columns * (side + 4), k // columns * (side + 40)
        for line, text in enumerate(textwrap.wrap(label, side // 6)[:3]):
            draw.text((x, y + 12 * line), text, fill='black')
        sheet.paste(Image.fromarray(picture).resize((side, side), Image.BICUBIC), (x, y + 37))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
