"""What the autoencoder loses: PSNR, and the classifier's accuracy on reconstructions beside that on the drawn pictures."""

import math
from pathlib import Path

import numpy as np
import torch

from model import Model, keep, parser
from nets import Judge
from labels import FIELDS, NAMES, UNKNOWN, load_labels
from pictures import load_pictures


@torch.no_grad()
def main() -> None:
    p = parser(__doc__)
    p.add_argument('--nets', type=Path, required=True)
    p.add_argument('--pictures', type=Path, nargs='+', required=True)
    p.add_argument('--count', type=int, default=1000)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    vae, judge = Model(a.model).vae, Judge(a.nets, a.threads)
    pictures = np.asarray(load_pictures(a.pictures)[: a.count])
    labels = load_labels(a.pictures)[1][: a.count]
    again, error = [], 0.0
    for start in range(0, len(pictures), 16):
        x = torch.from_numpy(pictures[start : start + 16]).permute(0, 3, 1, 2).float() / 127.5 - 1
        r = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        error += (r - x).square().mean((1, 2, 3)).sum().item()
        again.append(((r + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())

    def accuracy(said) -> dict[str, float]:
        out = {}
        for field in judge.card['fields']:
            column = NAMES.index(field['name'])
            values = [str(v) for v in FIELDS[column][2]]
            alone = field['name'].startswith('first.')
            rows = [i for i, row in enumerate(labels) if row[column] != UNKNOWN and not (alone and row[0] == 1)]
            if rows:
                right = [said[i][field['name']] == values[labels[i, column]] for i in rows]
                out[field['name']] = round(sum(right) / len(right), 4)
        return out

    drawn, decoded = accuracy(judge.said(pictures)), accuracy(judge.said(np.concatenate(again)))
    mean = lambda found: sum(found.values()) / len(found)  # noqa: E731
    keep(
        a,
        'autoencoder',
        {
            'pictures': len(pictures),
            'psnr': round(10 * math.log10(4 / (error / len(pictures))), 2),
            'accuracyDrawn': round(mean(drawn), 4),
            'accuracyDecoded': round(mean(decoded), 4),
            'pointsLost': round(100 * (mean(drawn) - mean(decoded)), 2),
            'fields': {name: [drawn[name], decoded[name]] for name in drawn},
        },
    )


if __name__ == '__main__':
    main()
