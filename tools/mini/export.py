"""Puts the parts together as one diffusers folder in fp16, as Stable Diffusion is shipped, and draws its sample sheet."""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from attention import use_plain_attention
from diffusion import generate, new_scheduler, states_of
from prompts import SHEET
from sheet import contact_sheet


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    for part in ('tokenizer', 'text', 'vae', 'unet', 'out'):
        arguments.add_argument(f'--{part}', type=Path, required=True)
    arguments.add_argument('--threads', type=int, default=1)
    arguments.add_argument('--steps', type=int, default=30)
    arguments.add_argument('--guidance', type=float, default=4.0)
    a = arguments.parse_args()
    torch.set_num_threads(a.threads)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(a.vae),
        text_encoder=CLIPTextModel.from_pretrained(a.text),
        tokenizer=CLIPTokenizer.from_pretrained(a.tokenizer),
        unet=UNet2DConditionModel.from_pretrained(a.unet),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(a.out, safe_serialization=True)
    # Older programs read vocab.json and merges.txt: the same vocabulary, written out of the one that was trained with.
    pipeline.tokenizer.backend_tokenizer.model.save(str(a.out / 'tokenizer'))
    size = sum(p.stat().st_size for p in a.out.rglob('*.safetensors'))
    # Read back, so that the sheet shows what the rounded weights draw.
    unet = UNet2DConditionModel.from_pretrained(a.out / 'unet', torch_dtype=torch.float32).eval()
    use_plain_attention(unet)
    text = CLIPTextModel.from_pretrained(a.out / 'text_encoder', torch_dtype=torch.float32).eval()
    vae = AutoencoderKL.from_pretrained(a.out / 'vae', torch_dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(a.out / 'tokenizer')
    states, empty = states_of(text, tokenizer, SHEET), states_of(text, tokenizer, [''])
    contact_sheet(generate(unet, vae, states, empty, a.steps, a.guidance), SHEET, a.out / 'sheet.png')
    print(f'{a.out}: {size / 1e6:.1f} MB of weights')


if __name__ == '__main__':
    main()
