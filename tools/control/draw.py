"""Pictures along edges, in float32."""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'mini'))
from diffusion import new_scheduler  # noqa: E402


@torch.no_grad()
def draw(unet, vae, net, lines, states, empty, scale=1.0, steps=20, guidance=4.0, seed=1, batch=16) -> np.ndarray:
    """Pictures as bytes, one for each of lines [N, 3, H, W] and states [N, 77, width]; `net` may be None."""
    scheduler = new_scheduler()
    shape = (len(lines), unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    pictures = []
    for start in range(0, len(lines), batch):
        x, context, picture = (one[start : start + batch] for one in (noise, states, lines))
        both, picture = torch.cat([empty.expand(len(x), -1, -1), context]), torch.cat([picture, picture])
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            given, more = torch.cat([x, x]), {}
            if net is not None:
                down, middle = net(given, t, both, controlnet_cond=picture, conditioning_scale=scale, return_dict=False)
                more = {'down_block_additional_residuals': down, 'mid_block_additional_residual': middle}
            without, with_ = unet(given, t, both, **more).sample.chunk(2)
            x = scheduler.step(without + guidance * (with_ - without), t, x).prev_sample
        for part in x.split(4):
            r = vae.decode(part / vae.config.scaling_factor).sample.clamp(-1, 1)
            pictures.append(((r + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(pictures)
