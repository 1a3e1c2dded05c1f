"""How often a model's pictures show what the prompts say, by the classifier: a table by group, with 95 % intervals.

Prompts come from tools/world/prompts.mjs.  A prompt is obeyed if every field that it fixes is answered as it says.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from backbone import load_state
from classifier import ASKED, Classifier
from attention import use_plain_attention
from diffusion import generate, states_of
from labels import FIELDS, NAMES, SIZES


def interval(hits: int, count: int) -> tuple[float, float]:
    """Wilson's interval for a share."""
    z, p = 1.96, hits / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', type=Path, required=True, help='a diffusers folder')
    parser.add_argument('--classifier', type=Path, required=True, help='classifier-state.pt')
    parser.add_argument('--prompts', type=Path, required=True)
    parser.add_argument('--limit', type=int, default=10_000)
    parser.add_argument('--steps', type=int, default=25)
    parser.add_argument('--guidance', type=float, default=4.0)
    parser.add_argument('--threads', type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    net = Classifier().eval()
    net.load_state_dict(load_state(a.classifier)['net'])
    unet = UNet2DConditionModel.from_pretrained(a.model / 'unet', torch_dtype=torch.float32).eval()
    use_plain_attention(unet)
    text = CLIPTextModel.from_pretrained(a.model / 'text_encoder', torch_dtype=torch.float32).eval()
    vae = AutoencoderKL.from_pretrained(a.model / 'vae', torch_dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(a.model / 'tokenizer')

    prompts = json.loads(a.prompts.read_text())[: a.limit]
    states = states_of(text, tokenizer, [p['prompt'] for p in prompts])
    pictures = generate(unet, vae, states, states_of(text, tokenizer, ['']), a.steps, a.guidance)
    with torch.no_grad():
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        answers = torch.cat([net(p) for p in pixels.split(50)]).split([SIZES[i] for i in ASKED], 1)
    said = {NAMES[i]: [str(FIELDS[i][2][k]) for k in x.argmax(1).tolist()] for i, x in zip(ASKED, answers)}
    table, fields = defaultdict(list), defaultdict(list)
    for row, p in enumerate(prompts):
        right = {f: said[f][row] == str(v) for f, v in p['expect'].items()}
        table[p['group']].append(all(right.values()))
        for f, ok in right.items():
            fields[f].append(ok)
    for title, rows in (('group', table), ('field', fields)):
        for name, hits in rows.items():
            low, high = interval(sum(hits), len(hits))
            print(f'{title} {name}: {100 * sum(hits) / len(hits):.0f} % ({100 * low:.0f}-{100 * high:.0f}) of {len(hits)}')


if __name__ == '__main__':
    main()
