"""Encodes all pictures once: latents (fp16) beside each shard, with the normalisation folded into the autoencoder.

Stable Diffusion multiplies latents by 0.18215 to give them unit variance.  Here each channel's mean and spread go into
quant_conv and post_quant_conv, so that the same factor gives latents of mean 0 and variance 1 in every channel.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from pictures import load_pictures, shard_paths
from runtime import CHANNELS_LAST, bf16
from vae import SCALE, psnr


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: np.ndarray) -> torch.Tensor:
    out = []
    for start in range(0, len(pictures), 32):
        x = torch.from_numpy(np.array(pictures[start : start + 32])).permute(0, 3, 1, 2).float() / 127.5 - 1
        with bf16():
            out.append(vae.encode(x.contiguous(memory_format=CHANNELS_LAST)).latent_dist.mean.float())
    return torch.cat(out)


@torch.no_grad()
def fold(vae: AutoencoderKL, latents: torch.Tensor) -> None:
    mean, factor = latents.mean((0, 2, 3)), 1 / (latents.std((0, 2, 3)) * SCALE)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:4] *= factor.view(4, 1, 1, 1)
    quant.bias[:4] = (quant.bias[:4] - mean) * factor
    quant.bias[4:] += 2 * factor.log()
    matrix = post.weight[:, :, 0, 0].clone()
    post.bias += matrix @ mean
    post.weight[:] = (matrix / factor).view(4, 4, 1, 1)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument('--pictures', type=Path, nargs='+', required=True)
    arguments.add_argument('--vae', type=Path, required=True, help='the trained autoencoder')
    arguments.add_argument('--out', type=Path, required=True, help='folder of the folded autoencoder and the latents')
    arguments.add_argument('--threads', type=int, default=2)
    a = arguments.parse_args()
    torch.set_num_threads(a.threads)
    folded = a.out / 'vae'
    if not folded.exists():
        vae = AutoencoderKL.from_pretrained(a.vae).eval()
        pictures = load_pictures(a.pictures)
        before = psnr(vae, pictures[:64])
        chosen = np.stack([pictures[int(i)] for i in np.linspace(0, len(pictures) - 1, 1500)])
        fold(vae, encode(vae.to(memory_format=CHANNELS_LAST), chosen))
        print(f'PSNR {before:.2f} before, {psnr(vae, pictures[:64]):.2f} after folding', flush=True)
        vae.register_to_config(scaling_factor=SCALE)
        vae.save_pretrained(folded)
    vae = AutoencoderKL.from_pretrained(folded).eval().to(memory_format=CHANNELS_LAST)
    for path in shard_paths(a.pictures):
        target = a.out / f'{path.stem}.npy'
        if target.exists():
            continue
        started = time.time()
        latents = encode(vae, np.memmap(path, np.uint8, 'r').reshape(-1, 128, 128, 3)) * SCALE
        temporary = a.out / f'{path.stem}.tmp.npy'
        np.save(temporary, latents.numpy().astype(np.float16))
        temporary.rename(target)
        print(f'{target.name}: mean {latents.mean():.3f} spread {latents.std():.3f} {len(latents) / (time.time() - started):.0f}/s', flush=True)


if __name__ == '__main__':
    main()
