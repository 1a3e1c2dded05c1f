"""Checkpoints of a single file: the tensors' names of Stable Diffusion's own program, and the way back to them.

The names follow from the architecture's definition, block by block as that program builds them. Which of diffusers'
tensors stands behind each is what diffusers' own conversion says: it is run on a checkpoint of numbers, and the numbers
tell where each went.
"""

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor

UNET, VAE = "model.diffusion_model.", "first_stage_model."


def _layer(*names: str) -> list[str]:
    return [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]


def _resnet(at: str, inputs: int, outputs: int) -> list[str]:
    names = _layer(*(f"{at}.{part}" for part in ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3")))
    return names + (_layer(f"{at}.skip_connection") if inputs != outputs else [])


def _transformer(at: str, depth: int) -> list[str]:
    names = _layer(f"{at}.norm", f"{at}.proj_in", f"{at}.proj_out")
    for index in range(depth):
        block = f"{at}.transformer_blocks.{index}"
        for attention in ("attn1", "attn2"):
            names += [f"{block}.{attention}.to_{kind}.weight" for kind in "qkv"] + _layer(f"{block}.{attention}.to_out.0")
        names += _layer(*(f"{block}.{part}" for part in ("ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3")))
    return names


def unet_names(config: dict) -> list[str]:
    """`config` is diffusers': channels, layers and depths of the levels, finest first."""
    channels = config["block_out_channels"]
    layers = config["layers_per_block"]
    depths = config.get("transformer_layers_per_block", 1)
    depths = [depths] * len(channels) if isinstance(depths, int) else depths
    attends = ["CrossAttn" in kind for kind in config["down_block_types"]]
    names = _layer("time_embed.0", "time_embed.2", "input_blocks.0.0")
    if config.get("addition_embed_type") == "text_time":
        names += _layer("label_emb.0.0", "label_emb.0.2")
    skips, width, block = [channels[0]], channels[0], 1
    for level, outputs in enumerate(channels):
        for _ in range(layers):
            names += _resnet(f"input_blocks.{block}.0", width, outputs)
            names += _transformer(f"input_blocks.{block}.1", depths[level]) if attends[level] else []
            width = outputs
            skips.append(width)
            block += 1
        if level < len(channels) - 1:
            names += _layer(f"input_blocks.{block}.0.op")
            skips.append(width)
            block += 1
    names += _resnet("middle_block.0", width, width)
    names += _transformer("middle_block.1", depths[-1])
    names += _resnet("middle_block.2", width, width)
    block = 0
    for level, outputs in reversed(list(enumerate(channels))):
        for layer in range(layers + 1):
            names += _resnet(f"output_blocks.{block}.0", width + skips.pop(), outputs)
            names += _transformer(f"output_blocks.{block}.1", depths[level]) if attends[level] else []
            width = outputs
            if level > 0 and layer == layers:
                names += _layer(f"output_blocks.{block}.{2 if attends[level] else 1}.conv")
            block += 1
    return [UNET + name for name in names + _layer("out.0", "out.2")]


def vae_names(config: dict) -> list[str]:
    channels, layers = config["block_out_channels"], config["layers_per_block"]

    def resnet(at: str, inputs: int, outputs: int) -> list[str]:
        names = _layer(*(f"{at}.{part}" for part in ("norm1", "conv1", "norm2", "conv2")))
        return names + (_layer(f"{at}.nin_shortcut") if inputs != outputs else [])

    names = []
    for side in ("encoder", "decoder"):
        names += _layer(*(f"{side}.{part}" for part in ("conv_in", "norm_out", "conv_out")))
        names += resnet(f"{side}.mid.block_1", 1, 1) + resnet(f"{side}.mid.block_2", 1, 1)
        names += _layer(*(f"{side}.mid.attn_1.{part}" for part in ("norm", "q", "k", "v", "proj_out")))
    width = channels[0]
    for level, outputs in enumerate(channels):
        for layer in range(layers):
            names += resnet(f"encoder.down.{level}.block.{layer}", width, outputs)
            width = outputs
        names += _layer(f"encoder.down.{level}.downsample.conv") if level < len(channels) - 1 else []
    for level, outputs in reversed(list(enumerate(channels))):
        for layer in range(layers + 1):
            names += resnet(f"decoder.up.{level}.block.{layer}", width, outputs)
            width = outputs
        names += _layer(f"decoder.up.{level}.upsample.conv") if level > 0 else []
    return [VAE + name for name in names + _layer("quant_conv", "post_quant_conv")]


def _reversed(convert, names: list[str], config: dict) -> dict[str, str]:
    """LDM's name -> diffusers'; every one of `names` must be used."""
    numbers = {name: torch.full((1, 1, 1, 1), float(index), device="cpu") for index, name in enumerate(names)}
    converted = convert(dict(numbers), config)
    found = {names[int(value.flatten()[0])]: name for name, value in converted.items()}
    if set(found) != set(names) or len(converted) != len(names):
        raise RuntimeError(f"not converted one to one: {sorted(set(names) - set(found))[:4]}")
    return found


def unet_map(config: dict) -> dict[str, str]:
    return _reversed(convert_ldm_unet_checkpoint, unet_names(config), config)


def vae_map(config: dict) -> dict[str, str]:
    return _reversed(convert_ldm_vae_checkpoint, vae_names(config), config)


def open_clip(state: dict[str, Tensor], layers: int, projection: Tensor | None = None) -> dict[str, Tensor]:
    """A CLIP text encoder's state dict (names without text_model.) as OpenCLIP names and packs it."""
    result = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "logit_scale": torch.full((), 4.6052, device=state["final_layer_norm.weight"].device),
    }
    for kind in ("weight", "bias"):
        result[f"ln_final.{kind}"] = state[f"final_layer_norm.{kind}"]
        for layer in range(layers):
            theirs, ours = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
            result[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(
                [state[f"{ours}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            )
            for there, here in (
                ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("attn.out_proj", "self_attn.out_proj"),
                ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
            ):
                result[f"{theirs}.{there}.{kind}"] = state[f"{ours}.{here}.{kind}"]
    if projection is not None:
        result["text_projection"] = projection.T.contiguous()
    return result


def check_open_clip(encoder, packed: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """diffusers' conversion of `packed` must be `state` again."""
    prefix = "conditioner.embedders.1.model."
    converted = convert_open_clip_checkpoint(encoder, {prefix + name: value for name, value in packed.items()}, prefix)
    for name, value in converted.items():
        name = name.removeprefix("text_model.")
        if name in state and not torch.equal(value, state[name]):
            raise RuntimeError(f"{name} comes back otherwise")
    lost = set(state) - {name.removeprefix("text_model.") for name in converted}
    if lost:
        raise RuntimeError(f"lost: {sorted(lost)[:4]}")
