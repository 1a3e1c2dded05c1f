"""Trains the autoencoder: 128-pixel pictures to 16x16 latents of 4 channels and back.

Two phases: 64-pixel crops (many edges for little arithmetic), then whole pictures.  The loss weighs edges, because flat
colour is easy and eyes, mouths and outlines are what a person sees.  A fixed small noise on the latents replaces a
learnt variance: the decoder becomes smooth around each latent without the blur of a strong KL term.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from pictures import load_pictures
from runtime import CHANNELS_LAST, Average, Log, Stop, bf16, load_state, save_state

SCALE = 0.18215  # Stable Diffusion's factor: latents times this have unit variance
NOISE = 0.05  # in units of the latents' spread
KL = 2e-4


def new_vae() -> AutoencoderKL:
    """A fresh network whose residual branches start at zero and whose resamplers start near the identity.

    With the library's own initialisation the same training stalls near 16 dB.
    """
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        down_block_types=('DownEncoderBlock2D',) * 4,
        up_block_types=('UpDecoderBlock2D',) * 4,
        block_out_channels=(32, 32, 64, 96),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=128,
        scaling_factor=SCALE,
    )
    with torch.no_grad():
        for name, module in vae.named_modules():
            if isinstance(module, torch.nn.Conv2d):
                fan_in = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
                torch.nn.init.normal_(module.weight, std=fan_in**-0.5)
                module.bias.zero_()
                if name.endswith('conv2'):
                    module.weight.zero_()
                if name.endswith('conv_shortcut'):
                    torch.nn.init.orthogonal_(module.weight)
                if 'samplers' in name:
                    module.weight.mul_(0.3)
                    module.weight[:, :, 1, 1] += torch.eye(module.in_channels)
            if name.endswith('to_out.0'):
                module.weight.zero_()
                module.bias.zero_()
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -6.0
    return vae


def batch(pictures: np.ndarray, size: int, side: int, random: np.random.Generator) -> torch.Tensor:
    out = np.empty((size, side, side, 3), np.uint8)
    for k, i in enumerate(np.sort(random.integers(0, len(pictures), size))):
        y, x = random.integers(0, 128 - side + 1, 2)
        out[k] = pictures[i, y : y + side, x : x + side]
    return (torch.from_numpy(out).permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=CHANNELS_LAST)


def losses(x: torch.Tensor, r: torch.Tensor):
    dx, dy = x[..., 1:] - x[..., :-1], x[:, :, 1:] - x[:, :, :-1]
    edge_x, edge_y = dx.abs().amax(1, keepdim=True), dy.abs().amax(1, keepdim=True)
    weight = torch.ones_like(x[:, :1])
    weight[..., 1:] += edge_x
    weight[..., :-1] += edge_x
    weight[:, :, 1:] += edge_y
    weight[:, :, :-1] += edge_y
    error = r - x
    square = error.square().mean()
    gradient = (r[..., 1:] - r[..., :-1] - dx).abs().mean() + (r[:, :, 1:] - r[:, :, :-1] - dy).abs().mean()
    return (error.abs() * weight).mean() + 2 * square + 0.5 * gradient, square


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: np.ndarray) -> float:
    """Peak signal to noise over whole pictures in float32, from the mean of the squared errors."""
    total = 0.0
    for start in range(0, len(pictures), 16):
        x = torch.from_numpy(np.array(pictures[start : start + 16])).permute(0, 3, 1, 2).float() / 127.5 - 1
        r = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        total += (r - x).square().mean((1, 2, 3)).sum().item()
    return 10 * math.log10(4 / (total / len(pictures)))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument('--pictures', type=Path, nargs='+', required=True, help='folders of rendered shards')
    arguments.add_argument('--work', type=Path, required=True, help='where the state, the log and the result go')
    arguments.add_argument('--start-from', type=Path, help='a diffusers VAE folder to go on from')
    arguments.add_argument('--steps', type=int, default=12000)
    arguments.add_argument('--whole', type=float, default=0.4, help='share of the steps on whole pictures')
    arguments.add_argument('--rate', type=float, default=6e-4)
    arguments.add_argument('--threads', type=int, default=2)
    arguments.add_argument('--decoder-only', action='store_true', help='keep the latents as they are')
    a = arguments.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    pictures = load_pictures(a.pictures)
    check, pictures = pictures[-128:], pictures[:-128]

    vae = (AutoencoderKL.from_pretrained(a.start_from) if a.start_from else new_vae()).to(memory_format=CHANNELS_LAST)
    if a.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    trained = [p for p in vae.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=a.rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    average = Average(vae, 0.998)
    shadow = new_vae().eval().requires_grad_(False)
    step = 0
    if state := load_state(a.work / 'vae-state.pt'):
        vae.load_state_dict(state['vae'])
        optimiser.load_state_dict(state['optimiser'])
        average.weights, step = state['average'], state['step']
    log = Log(a.work / 'vae-log.jsonl')
    random = np.random.default_rng(step + 1)
    recent = []
    stop = Stop()

    def save() -> None:
        average.copy_to(shadow)
        save_state(a.work / 'vae-state.pt', vae=vae.state_dict(), optimiser=optimiser.state_dict(), average=average.weights, step=step)
        shadow.save_pretrained(a.work / 'vae')

    # The spread of the latents as they are now, so that noise and KL keep their meaning when going on from folded weights.
    with torch.no_grad(), bf16():
        spread = vae.encode(batch(pictures, 32, 128, random)).latent_dist.mean.float().std((0, 2, 3)).mean().clamp(min=0.2).item()
    while step < a.steps and not stop:
        done = step / a.steps
        side, size = (64, 12) if done < 1 - a.whole else (128, 3)
        for group in optimiser.param_groups:
            group['lr'] = a.rate * min(1, (step + 1) / 200) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * done)))
        x = batch(pictures, size, side, random)
        with bf16():
            mean = vae.encode(x).latent_dist.mean.float()
            r = vae.decode(mean + NOISE * spread * torch.randn_like(mean)).sample.float()
        loss, square = losses(x, r)
        loss = loss + KL * 0.5 * (mean / spread).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        average.update(vae, step)
        step += 1
        recent.append(square.item())
        if step % 100 == 0:
            log.write(step=step, side=side, loss=loss.item(), psnr=10 * math.log10(4 / np.mean(recent)), rate=group['lr'])
            recent = []
        if step % 1000 == 0:
            save()
            log.write(step=step, check_psnr=psnr(shadow, check))
    save()


if __name__ == '__main__':
    main()
