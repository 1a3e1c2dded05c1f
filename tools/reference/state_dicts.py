"""Writes test/model/goldens/state_dicts.json.gz: names and shapes of every tensor that diffusers and transformers
make for a number of configs, among them the full Stable Diffusion 1.5 and 2.1. Nothing is allocated (meta device).

    python tools/reference/state_dicts.py
"""

import gzip
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

ROOT = Path(__file__).resolve().parents[2]
MINI = ROOT / "models" / "mini"
OUT = ROOT / "test" / "model" / "goldens" / "state_dicts.json.gz"

DOWN, UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
PLAIN_DOWN, PLAIN_UP = "DownBlock2D", "UpBlock2D"


def vae(channels, **keys):
    count = len(channels)
    return dict(
        block_out_channels=channels, down_block_types=["DownEncoderBlock2D"] * count,
        up_block_types=["UpDecoderBlock2D"] * count, **keys,
    )


def mini(part):
    return json.loads((MINI / part / "config.json").read_text())


# Keys that equal the constructors' defaults are left out, as older files do.
CASES = {
    "mini": dict(unet=mini("unet"), vae=mini("vae"), text_encoder=mini("text_encoder")),
    "sd15": dict(
        unet=dict(cross_attention_dim=768, sample_size=64),
        vae=vae([128, 256, 512, 512], layers_per_block=2, sample_size=512),
        text_encoder=dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12),
    ),
    "sd21": dict(
        unet=dict(cross_attention_dim=1024, sample_size=96, attention_head_dim=[5, 10, 20, 20],
                  use_linear_projection=True, upcast_attention=True),
        vae=vae([128, 256, 512, 512], layers_per_block=2, sample_size=768),
        text_encoder=dict(hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=23,
                          hidden_act="gelu"),
    ),
    "uneven": dict(
        unet=dict(block_out_channels=[24, 40, 72], layers_per_block=[1, 3, 2], transformer_layers_per_block=[1, 2, 3],
                  down_block_types=[PLAIN_DOWN, DOWN, DOWN], up_block_types=[UP, PLAIN_UP, UP],
                  attention_head_dim=[3, 5, 9], norm_num_groups=8, cross_attention_dim=36, sample_size=16,
                  use_linear_projection=True),
        vae=vae([12, 20], layers_per_block=3, norm_num_groups=4, mid_block_add_attention=False, use_quant_conv=False,
                use_post_quant_conv=False),
        text_encoder=dict(hidden_size=36, intermediate_size=50, num_attention_heads=3, num_hidden_layers=2,
                          vocab_size=99, max_position_embeddings=20),
    ),
    "two levels": dict(
        unet=dict(block_out_channels=[16, 16], layers_per_block=3, down_block_types=[PLAIN_DOWN, PLAIN_DOWN],
                  up_block_types=[PLAIN_UP, UP], attention_head_dim=4, norm_num_groups=4, cross_attention_dim=[24, 24],
                  mid_block_type="UNetMidBlock2D",
                  in_channels=8, out_channels=8, sample_size=8),
        vae=vae([8, 8, 16], latent_channels=8, norm_num_groups=8, in_channels=1, out_channels=1),
        text_encoder=dict(hidden_size=24, intermediate_size=96, num_attention_heads=2, num_hidden_layers=1),
    ),
    "one level": dict(
        unet=dict(block_out_channels=[32], down_block_types=[DOWN], up_block_types=[UP], norm_num_groups=16,
                  cross_attention_dim=512, sample_size=8, transformer_layers_per_block=2),
        vae=dict(), text_encoder=dict(),
    ),
}


def shapes(model):
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def main():
    golden = {"diffusers": diffusers.__version__, "transformers": transformers.__version__, "cases": {}}
    for name, configs in CASES.items():
        with torch.device("meta"):
            models = {
                "unet": UNet2DConditionModel.from_config(configs["unet"]),
                "vae": AutoencoderKL.from_config(configs["vae"]),
                "text_encoder": CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
            }
        golden["cases"][name] = {
            part: {"config": configs[part], "shapes": shapes(model)} for part, model in models.items()
        }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_bytes(gzip.compress(json.dumps(golden).encode(), mtime=0))


if __name__ == "__main__":
    main()
