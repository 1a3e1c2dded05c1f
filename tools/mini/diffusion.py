"""The U-Net, the noise schedule, and pictures from prompts."""

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from attention import use_plain_attention


def new_unet() -> UNet2DConditionModel:
    """Cross-attention at 16x16, 8x8 and in the middle; residual branches start at zero, which saves the first thousand steps."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 256),
        down_block_types=('CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'),
        up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'),
        cross_attention_dim=192,
        attention_head_dim=(2, 4, 4),
        norm_num_groups=8,
    )
    with torch.no_grad():
        for name, module in unet.named_modules():
            if name.endswith(('conv2', 'proj_out')) or name == 'conv_out':
                module.weight.zero_()
                module.bias.zero_()
    use_plain_attention(unet)
    return unet


def new_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule='scaled_linear',
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type='epsilon',
    )


@torch.no_grad()
def states_of(text_encoder, tokenizer, prompts: list[str]) -> torch.Tensor:
    ids = tokenizer(prompts, padding='max_length', max_length=77, truncation=True, return_tensors='pt').input_ids
    return text_encoder(ids)[0].float()


@torch.no_grad()
def generate(unet, vae, states, empty, steps=30, guidance=4.0, seed=1, batch=16) -> np.ndarray:
    """Pictures as bytes, in float32 as the engine makes them."""
    scheduler = new_scheduler()
    noise = torch.randn(len(states), 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    pictures = []
    for start in range(0, len(states), batch):
        x, context = noise[start : start + batch], states[start : start + batch]
        both = torch.cat([empty.expand(len(x), -1, -1), context])
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            without, with_ = unet(torch.cat([x, x]), t, both).sample.chunk(2)
            x = scheduler.step(without + guidance * (with_ - without), t, x).prev_sample
        for part in x.split(4):
            r = vae.decode(part / vae.config.scaling_factor).sample.clamp(-1, 1)
            pictures.append(((r + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(pictures)
