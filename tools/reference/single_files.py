"""Checkpoints of a single file and what diffusers computes with the models that they were made of.

    python single_files.py --models FOLDER --out FOLDER

writes, for each model below, FOLDER/files/<name>.safetensors in the names of Stable Diffusion's own program (or .ckpt,
by torch.save), FOLDER/configs/<name>/ with what such a file does not carry, and FOLDER/<name>.safetensors with inputs
and outputs as outputs.py does.
"""

import argparse
import shutil
from pathlib import Path

import torch
from ldm import UNET, VAE, check_open_clip, open_clip, unet_map, vae_map
from models import DDIM, EULER, MINI, PNDM, Configuration, Files, Parts, added, build, load, text, unet, vae
from outputs import inputs, outputs
from safetensors.torch import save_file
from torch import Tensor

# Groups of 32 and heads as in the families: such a model can be told from its tensors.
CONFIGURATIONS = {
    "one": Configuration(
        "one", text(128, 2, 2, 320), unet([32, 64, 64, 64], 8, "bbb-", 32, layers_per_block=2),
        vae([32, 64, 64], 2, 32), PNDM,
    ),
    "two": Configuration(
        "two", text(64, 1, 3, 192, "gelu"),
        unet([64, 128, 128, 192], [1, 2, 2, 3], "bbb-", 32, layers_per_block=1, use_linear_projection=True,
             upcast_attention=True),
        vae([32, 32], 1, 32), {**DDIM, "prediction_type": "v_prediction"},
        Files(dtype=torch.float16, pad="!"),
    ),
    "xl": Configuration(
        "xl", text(64, 1, 3, 192),
        unet([32, 64, 128], [1, 1, 2], "-bb", 32, layers_per_block=2, transformer_layers_per_block=[1, 2, 3],
             use_linear_projection=True, **added(96, 10)),
        vae([32, 64], 1, 32, scaling_factor=0.13025), EULER, Files(dtype=torch.float16),
        text(128, 2, 3, 320, "gelu", projection_dim=96),
    ),
}


def config_of(module) -> dict:
    return dict(module.config)


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    if set(state) != set(names.values()):
        raise RuntimeError(f"other tensors: {sorted(set(state) ^ set(names.values()))[:4]}")
    return {ldm: state[name] for ldm, name in names.items()}


def ldm_state(parts: Parts, packed: bool) -> dict[str, Tensor]:
    """A whole checkpoint; `packed`: the text encoder as OpenCLIP's, with the last layer that 2.x does not use.

    SDXL has one of each kind, and uses all of the second.
    """
    autoencoder = renamed(parts.vae.state_dict(), vae_map(config_of(parts.vae)))
    for name, value in autoencoder.items():
        if ".attn_1." in name and value.dim() == 2:
            autoencoder[name] = value[:, :, None, None]
    state = {**renamed(parts.unet.state_dict(), unet_map(config_of(parts.unet))), **autoencoder}
    encoder = {name.removeprefix("text_model."): value for name, value in parts.text_encoder.state_dict().items()}
    if parts.text_encoder_2:
        second = {name.removeprefix("text_model."): value for name, value in parts.text_encoder_2.state_dict().items()}
        packed_state = open_clip(
            second, parts.text_encoder_2.config.num_hidden_layers, second["text_projection.weight"]
        )
        check_open_clip(parts.text_encoder_2, packed_state, second)
        prefix = "conditioner.embedders.0.transformer.text_model."
        state |= {prefix + name: value for name, value in encoder.items()}
        state |= {f"conditioner.embedders.1.model.{name}": value for name, value in packed_state.items()}
    elif packed:
        layers = parts.text_encoder.config.num_hidden_layers
        check_open_clip(parts.text_encoder, open_clip(encoder, layers), encoder)
        width = parts.text_encoder.config.hidden_size
        for name in [name for name in encoder if name.startswith("encoder.layers.0.")]:
            encoder[name.replace(".0.", f".{layers}.", 1)] = torch.full_like(encoder[name], 3.0)
        packed_state = open_clip(encoder, layers + 1, torch.eye(width))
        state |= {f"cond_stage_model.model.{name}": value for name, value in packed_state.items()}
    else:
        state |= {f"cond_stage_model.transformer.text_model.{name}": value for name, value in encoder.items()}
        state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    # What training leaves behind.
    state["model_ema.decay"] = torch.tensor(0.9999)
    state["model_ema.diffusion_modelout2weight"] = torch.zeros(4, 4)
    state["alphas_cumprod"] = torch.linspace(0.99, 0.005, 1000)
    return {name: value.contiguous() for name, value in state.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    files, configs = arguments.out / "files", arguments.out / "configs"
    files.mkdir(parents=True, exist_ok=True)
    for name in [*CONFIGURATIONS, "mini"]:
        folder = arguments.out / "folders" / name if name != "mini" else MINI
        if name != "mini" and not folder.exists():
            build(CONFIGURATIONS[name], folder)
        parts = load(folder)
        given = inputs(name, parts)
        computed = {**given, **outputs(parts, given)}
        save_file(
            {key: tensor.float().contiguous() for key, tensor in computed.items()}, arguments.out / f"{name}.safetensors"
        )
        dtype = CONFIGURATIONS[name].files.dtype if name in CONFIGURATIONS else torch.float16
        state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in
                 ldm_state(parts, packed=name == "two").items()}
        save_file(state, files / f"{name}.safetensors", {"format": "pt"})
        if name == "one":
            torch.save({"state_dict": state, "global_step": 470000}, files / "one.ckpt")
        # The small models have a small vocabulary.
        for tokenizer in folder.glob("tokenizer*"):
            shutil.copytree(tokenizer, configs / name / tokenizer.name, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
