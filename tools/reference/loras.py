"""LoRA files in the namings that people have, and what diffusers computes with their weights merged.

    python loras.py --models FOLDER --out FOLDER

writes FOLDER/files/<case>[-2].safetensors and FOLDER/<case>.safetensors: inputs and outputs as outputs.py has them,
with the model's name, the files and their scales in the metadata. What a file adds is written down here by its
definition, W + scale * alpha / rank * up @ down; for kohya's names, diffusers' own conversion must name the same layers.
"""

import argparse
import json
import math
import re
from pathlib import Path

import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from ldm import UNET, unet_map
from models import Parts, build_all, load
from outputs import inputs, outputs
from safetensors.torch import save_file
from torch import Tensor

# Layer -> (down, up, middle or None, alpha or None)
Factors = dict[str, tuple[Tensor, Tensor, Tensor | None, float | None]]


def make(parts: Parts, layers: list[str], seed: int, rank=lambda index: 4, alpha=lambda index, rank: None,
         middle: bool = False, dtype=torch.float32) -> Factors:
    """Random factors for layers such as unet.conv_in or text_encoder_2.encoder.layers.0.mlp.fc1."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))).to(dtype)

    factors = {}
    for index, layer in enumerate(layers):
        shape = weight_of(parts, layer).shape
        r = rank(index)
        ones = (1, 1) if len(shape) == 4 else ()
        if middle and len(shape) == 4 and shape[2] > 1:
            three = (noise(r, shape[1], 1, 1), noise(shape[0], r, 1, 1), noise(r, r, *shape[2:]))
        else:
            three = (noise(r, *shape[1:]), noise(shape[0], r, *ones), None)
        factors[layer] = (*three, alpha(index, r))
    return factors


def weight_of(parts: Parts, layer: str) -> Tensor:
    part, _, name = layer.partition(".")
    module = getattr(parts, part)
    if part.startswith("text_encoder"):
        names = {there.removeprefix("text_model."): there for there, _ in module.named_parameters()}
        return module.get_parameter(names[f"{name}.weight"])
    return module.get_parameter(f"{name}.weight")


@torch.no_grad()
def merge(parts: Parts, factors: Factors, scale: float) -> None:
    for layer, (down, up, middle, alpha) in factors.items():
        weight = weight_of(parts, layer)
        down, up = down.double(), up.double()
        if middle is not None:
            product = torch.einsum("or,rskl,si->oikl", up.flatten(1), middle.double(), down.flatten(1))
        else:
            product = up.flatten(1) @ down.flatten(1)
        own = 1.0 if alpha is None else alpha / down.shape[0]
        weight.copy_((weight.double() + scale * own * product.view(weight.shape)).to(weight.dtype))


def layers_of(parts: Parts, kinds: tuple[str, ...], text: tuple[str, ...] = ()) -> list[str]:
    def names(part: str, module: torch.nn.Module, ends: tuple[str, ...]) -> list[str]:
        return [
            f"{part}.{name.removeprefix('text_model.')}" for name, child in module.named_modules()
            if name.endswith(ends) and isinstance(child, (torch.nn.Linear, torch.nn.Conv2d))
        ] if ends else []

    encoders = zip(("text_encoder", "text_encoder_2"), parts.text_encoders)
    return names("unet", parts.unet, kinds) + [name for part, module in encoders for name in names(part, module, text)]


def kohya(factors: Factors, text: str = "lora_te", rename=lambda name: name) -> dict[str, Tensor]:
    prefixes = {"unet": "lora_unet_", "text_encoder": f"{text}_text_model_", "text_encoder_2": "lora_te2_text_model_"}
    state = {}
    for layer, (down, up, middle, alpha) in factors.items():
        part, _, name = layer.partition(".")
        module = prefixes[part] + (rename(name) if part == "unet" else name).replace(".", "_")
        state[f"{module}.lora_down.weight"], state[f"{module}.lora_up.weight"] = down, up
        if middle is not None:
            state[f"{module}.lora_mid.weight"] = middle
        if alpha is not None:
            state[f"{module}.alpha"] = torch.tensor(alpha, dtype=down.dtype)
    return state


def check_kohya(parts: Parts, state: dict[str, Tensor], factors: Factors) -> None:
    """diffusers' conversion must find the same layers in the file."""
    state = {name: value for name, value in state.items() if "lora_mid" not in name}
    state = _maybe_map_sgm_blocks_to_diffusers(state, parts.unet.config)
    converted, _ = _convert_non_diffusers_lora_to_diffusers(state)
    found = set()
    for name in converted:
        if ".down." not in name:
            continue
        name = name.replace(".processor.", ".").replace(".text_model.", ".")
        for older, newer in (
            ("_lora.down.weight", ""), (".lora_linear_layer.down.weight", ""), (".lora.down.weight", ""),
        ):
            name = name.removesuffix(older) if name.endswith(older) else name
        if name.startswith("text_encoder"):
            for kind in "qkv":
                name = name.replace(f".to_{kind}", f".{kind}_proj")
            name = name.replace(".to_out", ".out_proj")
        found.add(name + ".0" if name.endswith(".to_out") else name)
    if found != set(factors):
        raise RuntimeError(f"diffusers names other layers: {sorted(found ^ set(factors))[:6]}")


def peft(factors: Factors) -> dict[str, Tensor]:
    state = {}
    for layer, (down, up, _, _) in factors.items():
        name = re.sub(r"^(text_encoder\w*)\.", r"\1.text_model.", layer)
        state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"] = down, up
    return state


def older(factors: Factors) -> dict[str, Tensor]:
    """As diffusers wrote them before it used PEFT."""
    state = {}
    for layer, (down, up, _, _) in factors.items():
        if layer.startswith("text_encoder."):
            name = layer.replace("text_encoder.", "text_encoder.text_model.", 1) + ".lora_linear_layer"
        else:
            at, _, kind = layer.replace(".to_out.0", ".to_out").rpartition(".")
            name = f"{at}.processor.{kind}_lora"
        state[f"{name}.down.weight"], state[f"{name}.up.weight"] = down, up
    return state


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def ldm_names(parts: Parts):
    """kohya's files for SDXL have LDM's names of the U-Net's layers."""
    theirs = {there: ldm.removeprefix(UNET) for ldm, there in unet_map(dict(parts.unet.config)).items()}
    return lambda name: theirs[f"{name}.weight"].removesuffix(".weight")


def cases(folders: dict[str, Path]):
    """name, model, [(factors, scale, state, metadata)]"""
    parts = load(folders["sd1"])
    # Each layer with a rank and an alpha of its own, in half precision.
    factors = make(parts, layers_of(parts, (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"), TEXT), 1,
                   rank=lambda index: 1 + index % 5, alpha=lambda index, r: 0.5 * r if index % 2 else 1.0,
                   dtype=torch.float16)
    state = kohya(factors)
    check_kohya(parts, state, factors)
    yield "kohya", "sd1", [(factors, 0.8, state, {"ss_network_dim": "4"})]

    # Convolutions too, factored once more where they are 3x3.
    factors = make(parts, ["unet.conv_in", "unet.conv_out", "unet.time_embedding.linear_1"]
                   + layers_of(parts, ("conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv")),
                   2, rank=lambda index: 2 + index % 2, alpha=lambda index, r: 1.0, middle=True)
    yield "convolutions", "sd1", [(factors, 1.0, kohya(factors), {})]

    # What PEFT trained has its alpha in the metadata, if anywhere.
    factors = make(parts, layers_of(parts, ATTENTION, ("q_proj", "v_proj")), 3, rank=lambda index: 3,
                   alpha=lambda index, r: 6.0, dtype=torch.bfloat16)
    notes = {"unet.r": 3, "unet.lora_alpha": 6, "unet.alpha_pattern": {}, "text_encoder.lora_alpha": 6,
             "unet.target_modules": ["to_q"]}
    yield "peft", "sd1", [(factors, 0.5, peft(factors), {"lora_adapter_metadata": json.dumps(notes)})]

    factors = make(parts, layers_of(parts, ATTENTION, ("fc1",)), 4)
    yield "older", "sd1", [(factors, 1.25, older(factors), {})]

    # LDM's names of blocks; linear projections; several transformer layers a block.
    parts = load(folders["wide-heads"])
    factors = make(parts, ["unet.conv_in", "unet.time_embedding.linear_2"]
                   + layers_of(parts, (*ATTENTION, "ff.net.0.proj", "proj_in", "conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv")),
                   5, alpha=lambda index, r: 2.0)
    state = kohya(factors, "lora_te1", ldm_names(parts))
    check_kohya(parts, state, {layer: value for layer, value in factors.items()})
    yield "ldm", "wide-heads", [(factors, 1.0, state, {})]

    # Two of them on the same layers, one taken away; factors of 1x1 convolutions as matrices.
    parts = load(folders["mini"])
    first = make(parts, layers_of(parts, (*ATTENTION, "proj_in"), TEXT), 6, alpha=lambda index, r: 1.0)
    second = make(parts, layers_of(parts, ("to_k", "to_v", "proj_in")), 7, rank=lambda index: 8)
    flat = {layer: (down.flatten(1), up.flatten(1), middle, alpha) for layer, (down, up, middle, alpha) in first.items()}
    yield "two", "mini", [(first, 0.7, kohya(flat), {}), (second, -0.4, peft(second), {})]

    # XL's: both text encoders; kohya's have LDM's names of the U-Net, and factors for a last layer that nothing reads.
    # Stronger ones make attention so peaked that float32 itself is 2e-4 from float64 behind so many transformers.
    parts = load(folders["xl"])
    first = make(parts, layers_of(parts, (*ATTENTION, "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"), TEXT), 8,
                 rank=lambda index: 1 + index % 4, alpha=lambda index, r: 0.5 * r if index % 2 else 2.0)
    state = kohya(first, "lora_te1", ldm_names(parts))
    check_kohya(parts, state, first)
    second = make(parts, layers_of(parts, ("to_k", "to_v"), ("q_proj", "fc2")), 9)
    yield "xl", "xl", [(first, 0.45, state, {}), (second, 0.3, peft(second), {})]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    files = arguments.out / "files"
    files.mkdir(parents=True, exist_ok=True)
    folders = build_all(arguments.models)
    for name, model, loras in cases(folders):
        parts = load(folders[model])
        given = inputs(model, parts)
        before = outputs(parts, given)
        written = []
        for index, (factors, scale, state, metadata) in enumerate(loras):
            file = f"{name}-{index + 1}.safetensors"
            save_file({key: value.contiguous() for key, value in state.items()}, files / file, metadata or None)
            merge(parts, factors, scale)
            written.append({"file": file, "scale": scale})
        after = outputs(parts, given)
        kept = [key for key in after if key.startswith("text") or key in ("unet.output", "vae.decoded")]
        tensors = {**given, **{key: after[key] for key in kept}, **{f"before.{key}": before[key] for key in kept}}
        save_file(
            {key: tensor.float().contiguous() for key, tensor in tensors.items()},
            arguments.out / f"{name}.safetensors", {"model": model, "loras": json.dumps(written)},
        )


if __name__ == "__main__":
    main()
