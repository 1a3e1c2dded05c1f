"""How far pictures follow edges that the net was not trained on: of their edges, how many lie where they were asked for.

    python measure.py --net WORK/edges --pictures WORK/unseen --out figures.json

For each scale (0 is without the net) the share of asked edges that were drawn, the share of drawn edges that were asked
for, and the harmonic mean of the two, all within a pixel.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'mini'))
from diffusion import states_of  # noqa: E402
from draw import draw  # noqa: E402
from edges import edges  # noqa: E402
from pictures import load_pictures, load_records  # noqa: E402


def share(lines: torch.Tensor, others: torch.Tensor) -> float:
    """Of the lines' pixels, those with one of the others' beside them."""
    near = F.max_pool2d(others, 3, 1, 1)
    return float((lines * near).sum() / lines.sum().clamp(min=1))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument('--model', type=Path, default=Path(__file__).resolve().parents[2] / 'models' / 'mini')
    arguments.add_argument('--net', type=Path, required=True)
    arguments.add_argument('--pictures', type=Path, required=True)
    arguments.add_argument('--out', type=Path, required=True)
    arguments.add_argument('--count', type=int, default=64)
    arguments.add_argument('--scales', type=float, nargs='+', default=[0, 0.5, 1])
    arguments.add_argument('--threads', type=int, default=2)
    a = arguments.parse_args()
    torch.set_num_threads(a.threads)

    def part(kind, folder):
        return kind.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)

    unet, vae = part(UNet2DConditionModel, a.model / 'unet'), part(AutoencoderKL, a.model / 'vae')
    text, net = part(CLIPTextModel, a.model / 'text_encoder'), part(ControlNetModel, a.net)
    tokenizer = CLIPTokenizer.from_pretrained(a.model / 'tokenizer')
    pictures, records = load_pictures([a.pictures]), load_records([a.pictures])
    given = torch.from_numpy(np.stack([pictures[k] for k in range(a.count)])).permute(0, 3, 1, 2).float() / 255
    asked = edges(given)
    states = states_of(text, tokenizer, [record['caption'] for record in records[: a.count]])
    empty = states_of(text, tokenizer, [''])
    figures = []
    for scale in a.scales:
        used = net if scale else None
        drawn = draw(unet, vae, used, asked.expand(-1, 3, -1, -1).contiguous(), states, empty, scale)
        lines = edges(torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255)
        found, wanted = share(asked, lines), share(lines, asked)
        both = 2 * found * wanted / (found + wanted) if found + wanted > 0 else 0.0
        figures.append({'scale': scale, 'drawn': found, 'asked': wanted, 'both': both})
        print(json.dumps(figures[-1]), flush=True)
    a.out.write_text(json.dumps({'pictures': a.count, 'scales': figures}, indent=2) + '\n')


if __name__ == '__main__':
    main()
