"""The model that is measured: a diffusers folder, read in float32 as the engine computes it, and a file of figures."""

import argparse
import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from attention import use_plain_attention  # noqa: E402
from diffusion import generate, states_of  # noqa: E402


class Model:
    def __init__(self, folder: Path):
        self.unet = UNet2DConditionModel.from_pretrained(folder / 'unet', torch_dtype=torch.float32).eval()
        use_plain_attention(self.unet)
        self.text = CLIPTextModel.from_pretrained(folder / 'text_encoder', torch_dtype=torch.float32).eval()
        self.vae = AutoencoderKL.from_pretrained(folder / 'vae', torch_dtype=torch.float32).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / 'tokenizer')

    def states(self, prompts: list[str]) -> torch.Tensor:
        return states_of(self.text, self.tokenizer, prompts)

    def draw(self, prompts: list[str], a, seed: int = 1):
        """Pictures as bytes; the noise of picture k depends on `seed` and k alone."""
        return generate(self.unet, self.vae, self.states(prompts), self.states(['']), a.steps, a.guidance, seed)


def parser(doc: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument('--model', type=Path, required=True, help='a diffusers folder')
    parser.add_argument('--figures', type=Path, help='a JSON file where the figures are kept, by measure')
    parser.add_argument('--threads', type=int, default=1)
    return parser


def drawing(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument('--steps', type=int, default=30)
    parser.add_argument('--guidance', type=float, default=5.0)
    return parser


def keep(a, name: str, figures: dict) -> None:
    """Prints the figures, and puts them under their name into the file of figures."""
    print(json.dumps({name: figures}, indent=1))
    if a.figures:
        known = json.loads(a.figures.read_text()) if a.figures.exists() else {}
        known[name] = figures
        a.figures.parent.mkdir(parents=True, exist_ok=True)
        a.figures.write_text(json.dumps(dict(sorted(known.items())), indent=1) + '\n')
