"""The complete lists of tensors of published ControlNets' architectures, under the original program's names and diffusers'.

    python control_keys.py OUT.json.gz

The original names are made from the architecture's definition (the blocks that `cldm` counts through), and diffusers'
own conversion says what each becomes: both lists must be used up by it. For SDXL, which has no original names, the list
is ControlNetModel's own. Nothing has weights.
"""

import argparse
import gzip
import json
from pathlib import Path

from accelerate import init_empty_weights
from diffusers import ControlNetModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

SD1 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SD2 = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
XL = {
    "block_out_channels": [320, 640, 1280],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
ATTENDS = ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
ARCHITECTURES = {
    "control_v11p_sd15_canny": (SD1, "control_model."),
    "controlnet-sd21-canny": (SD2, ""),
    "controlnet-canny-sdxl-1.0": ({**XL, "down_block_types": ATTENDS, "transformer_layers_per_block": [1, 2, 10]}, None),
    "controlnet-canny-sdxl-1.0-mid": ({**XL, "down_block_types": ATTENDS, "transformer_layers_per_block": [0, 0, 1]}, None),
    "controlnet-canny-sdxl-1.0-small": (
        {**XL, "down_block_types": ["DownBlock2D"] * 3, "mid_block_type": "UNetMidBlock2D"},
        None,
    ),
}  # fmt: skip

RESNET = ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3"]
BLOCK = ["norm1", "norm2", "norm3", "attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"]
PROJECTIONS = [f"attn{k}.to_{name}" for k in (1, 2) for name in "qkv"]


def original_names(config: dict) -> list[str]:
    """Of a net with two resnets a level, the coarsest without attention."""
    names: list[str] = []

    def both(*layers: str) -> None:
        names.extend(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))

    def resnet(at: str, changes: bool) -> None:
        both(*(f"{at}.{layer}" for layer in RESNET), *([f"{at}.skip_connection"] if changes else []))

    def transformer(at: str) -> None:
        both(*(f"{at}.{layer}" for layer in ("norm", "proj_in", "proj_out")))
        both(*(f"{at}.transformer_blocks.0.{layer}" for layer in BLOCK))
        names.extend(f"{at}.transformer_blocks.0.{layer}.weight" for layer in PROJECTIONS)

    both("time_embed.0", "time_embed.2", "input_blocks.0.0", *(f"input_hint_block.{2 * k}" for k in range(8)))
    channels = config["block_out_channels"]
    block = 1
    for level, width in enumerate(channels):
        for layer in range(2):
            resnet(f"input_blocks.{block}.0", layer == 0 and level > 0 and width != channels[level - 1])
            if level < 3:
                transformer(f"input_blocks.{block}.1")
            block += 1
        if level < 3:
            both(f"input_blocks.{block}.0.op")
            block += 1
    resnet("middle_block.0", False)
    transformer("middle_block.1")
    resnet("middle_block.2", False)
    both(*(f"zero_convs.{k}.0" for k in range(block)), "middle_block_out.0")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    lists = {}
    for name, (options, prefix) in ARCHITECTURES.items():
        with init_empty_weights():
            model = ControlNetModel(**options)
        shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
        entries = [(key, key, shape) for key, shape in shapes.items()]
        if prefix is not None:
            originals = original_names(model.config)
            # Each stands for its own tensor, so that what comes out says where it came from.
            converted = convert_controlnet_checkpoint({f"control_model.{key}": key for key in originals}, dict(model.config))
            assert set(converted) == set(shapes), set(converted) ^ set(shapes)
            assert sorted(converted.values()) == sorted(originals), set(originals) ^ set(converted.values())
            entries = [(prefix + original, key, shapes[key]) for key, original in converted.items()]
        lists[name] = {"config": dict(options), "tensors": entries}
    text = json.dumps(lists, separators=(",", ":")).encode()
    parser.parse_args().out.write_bytes(gzip.compress(text, mtime=0))


if __name__ == "__main__":
    main()
