"""Writes test/model/goldens/single_files.json.gz: every tensor of v1-5, v2-1 and sd_xl_base as single files, with its
shape and the names that diffusers and transformers have for it. Nothing is allocated (meta device).

    python tools/reference/single_file_keys.py
"""

import gzip
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from ldm import open_clip, unet_map, vae_map
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

OUT = Path(__file__).resolve().parents[2] / "test" / "model" / "goldens" / "single_files.json.gz"

CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
PLAIN = ("DownBlock2D", "UpBlock2D")


def unet(attends: list[bool], **keys) -> dict:
    kinds = [CROSS if attention else PLAIN for attention in attends]
    return dict(down_block_types=[down for down, _ in kinds], up_block_types=[up for _, up in reversed(kinds)], **keys)


BIG = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, hidden_act="gelu",
           projection_dim=1280)
LARGE = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
HUGE = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, hidden_act="gelu")

MODELS = {
    "v1-5": dict(
        unet=unet([True, True, True, False], cross_attention_dim=768),
        text=[("cond_stage_model.transformer.text_model.", LARGE)],
    ),
    "v1-5-inpainting": dict(
        unet=unet([True, True, True, False], cross_attention_dim=768, in_channels=9),
        text=[("cond_stage_model.transformer.text_model.", LARGE)],
    ),
    "v2-1": dict(
        unet=unet([True, True, True, False], cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20],
                  use_linear_projection=True),
        text=[("cond_stage_model.model.", HUGE)],
    ),
    "sd_xl_base": dict(
        unet=unet([False, True, True], block_out_channels=[320, 640, 1280], cross_attention_dim=2048,
                  attention_head_dim=[5, 10, 20], transformer_layers_per_block=[1, 2, 10], use_linear_projection=True,
                  addition_embed_type="text_time", addition_time_embed_dim=256,
                  projection_class_embeddings_input_dim=2816),
        text=[("conditioner.embedders.0.transformer.text_model.", LARGE), ("conditioner.embedders.1.model.", BIG)],
    ),
}


def shapes(name: str, model: dict) -> dict[str, tuple[list[int], list[str]]]:
    """LDM's name -> its shape and the names of what it becomes; none for what is passed over."""
    result = {}
    with torch.device("meta"):
        network = UNet2DConditionModel(**model["unet"])
        autoencoder = AutoencoderKL(
            block_out_channels=[128, 256, 512, 512], layers_per_block=2,
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        )
        state = network.state_dict()
        for ldm, there in unet_map(dict(network.config)).items():
            result[ldm] = (list(state[there].shape), [f"unet.{there}"])
        state = autoencoder.state_dict()
        for ldm, there in vae_map(dict(autoencoder.config)).items():
            shape = list(state[there].shape)
            convolution = ".attn_1." in ldm and len(shape) == 2
            result[ldm] = (shape + [1, 1] if convolution else shape, [f"vae.{there}"])
        for index, (prefix, config) in enumerate(model["text"]):
            result |= text_shapes(index, prefix, config, cut=name == "v2-1")
    return result


def text_shapes(index: int, prefix: str, config: dict, cut: bool) -> dict[str, tuple[list[int], list[str]]]:
    kind = CLIPTextModelWithProjection if "projection_dim" in config else CLIPTextModel
    state = kind(CLIPTextConfig(**config)).state_dict()
    state = {there.removeprefix("text_model."): value for there, value in state.items()}
    place = f"text_encoder.{index}."
    if prefix.endswith("text_model."):
        return {prefix + there: (list(value.shape), [place + there]) for there, value in state.items()}
    layers = config["num_hidden_layers"]
    width = config["hidden_size"]
    packed = open_clip(state, layers, state.get("text_projection.weight", torch.empty(width, width)))
    parts = {id(value): there for there, value in state.items()}
    result = {}
    for ldm, value in packed.items():
        _, at, layer, *rest = [*ldm.split("."), "", "", ""]
        if "in_proj" in ldm:
            ours = f"{place}encoder.layers.{layer}.self_attn."
            there = [f"{ours}{part}_proj.{ldm.rsplit('_', 1)[1]}" for part in "qkv"]
        elif ldm == "text_projection":
            there = [f"{place}text_projection.weight"] if "text_projection.weight" in state else []
        else:
            there = [place + parts[id(value)]] if id(value) in parts else []
        # 2.x takes the state before its last layer.
        last = cut and at == "resblocks" and layer == str(layers - 1)
        result[prefix + ldm] = (list(value.shape), [] if last else there)
    return result


def main() -> None:
    goldens = {name: shapes(name, model) for name, model in MODELS.items()}
    for name, tensors in goldens.items():
        print(name, len(tensors), "tensors")
    with gzip.GzipFile(OUT, "wb", mtime=0) as file:
        file.write(json.dumps(goldens, separators=(",", ":")).encode())


if __name__ == "__main__":
    main()
