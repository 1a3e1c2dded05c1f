"""Kernel distance (KID) between generated and drawn pictures, on the classifier's features.

The model draws the captions of drawn pictures of seeds that it never saw.  Beside it the distance between two drawn
sets of the same size: what a perfect model would get.  A polynomial kernel of degree 3 over features of mean 0 and
spread 1, unbiased, over random subsets.
"""

from pathlib import Path

import numpy as np
import torch

from model import Model, drawing, keep, parser
from nets import Judge
from pictures import load_pictures, load_records


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    n = len(x)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    return float((xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (n * (n - 1)) - 2 * xy.mean())


def spread(x: np.ndarray, y: np.ndarray, subsets: int, size: int) -> dict:
    random = np.random.default_rng(0)
    found = []
    for _ in range(subsets):
        rows, others = (random.choice(len(z), min(size, len(z)), replace=False) for z in (x, y))
        found.append(kernel_distance(x[rows], y[others]))
    return {'mean': round(float(np.mean(found)), 5), 'spread': round(float(np.std(found)), 5)}


def main() -> None:
    p = drawing(parser(__doc__))
    p.add_argument('--nets', type=Path, required=True)
    p.add_argument('--pictures', type=Path, nargs='+', required=True, help='drawn shards: captions and first set')
    p.add_argument('--count', type=int, default=500)
    p.add_argument('--subsets', type=int, default=50)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    pictures, records = load_pictures(a.pictures), load_records(a.pictures)
    if len(pictures) < 2 * a.count:
        raise SystemExit(f'{len(pictures)} pictures: at least {2 * a.count} are needed for two sets')
    judge = Judge(a.nets, a.threads)
    drawn, others = (judge.features(np.asarray(pictures[i : i + a.count])) for i in (0, a.count))
    # Features that hardly ever answer would weigh most if they were blown up to spread 1.
    mean, deviation = others.mean(0), np.maximum(others.std(0), 0.2 * others.std(0).mean())
    made = judge.features(Model(a.model).draw([r['caption'] for r in records[: a.count]], a))
    drawn, others, made = ((f - mean) / deviation for f in (drawn, others, made))
    size = max(2, a.count // 2)
    keep(
        a,
        'distance',
        {
            'pictures': a.count,
            'generatedToDrawn': spread(made, others, a.subsets, size),
            'drawnToDrawn': spread(drawn, others, a.subsets, size),
        },
    )


if __name__ == '__main__':
    main()
