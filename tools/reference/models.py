"""Small Stable Diffusion folders with random weights, one for each way such a folder can differ.

    python models.py --out FOLDER

writes FOLDER/<configuration>/ in the diffusers layout and leaves finished folders alone. The weights are drawn so
that no activation is degenerate: what starts at zero or one by default is jittered, and attention is made peaked.
"""

import argparse
import json
import math
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

for logging in (diffusers_logging, transformers_logging):
    logging.set_verbosity_error()
    logging.disable_progress_bar()

MINI = Path(__file__).resolve().parents[2] / "models" / "mini"
POSITIONS = 77


@dataclass(frozen=True)
class Files:
    """How a folder is written."""

    dtype: torch.dtype = torch.float32
    variant: str | None = None  # "fp16": model.fp16.safetensors and so on
    shard: str | None = None  # the largest file, for example "100KB"
    text_prefix: bool = False  # the first text encoder's keys with text_model. and the old position_ids
    old_vae_keys: bool = False  # the VAE's attention named query, key, value, proj_attn
    tokenizer: str = "both"  # "both", "vocabulary" (vocab.json and merges.txt) or "json" (tokenizer.json)
    pad: str = "<|endoftext|>"


@dataclass(frozen=True)
class Configuration:
    name: str
    text: dict
    unet: dict
    vae: dict
    scheduler: dict = field(default_factory=dict)
    files: Files = field(default_factory=Files)
    text_2: dict | None = None  # SDXL's second text encoder; its tokenizer pads with "!"
    force_zeros: bool = True


def text(width: int, heads: int, layers: int, intermediate: int, activation: str = "quick_gelu", **more) -> dict:
    return {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "intermediate_size": intermediate,
        "hidden_act": activation,
        "max_position_embeddings": POSITIONS,
        **more,
    }


def unet(channels: list[int], heads: int | list[int], attention: str, groups: int, **more) -> dict:
    """`attention` has one letter a level, finest first: b(oth ways), d(own), u(p) or - (none)."""
    return {
        "block_out_channels": channels,
        "attention_head_dim": heads,  # diffusers' name for the number of heads
        "down_block_types": ["CrossAttnDownBlock2D" if a in "bd" else "DownBlock2D" for a in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if a in "bu" else "UpBlock2D" for a in reversed(attention)],
        "norm_num_groups": groups,
        "sample_size": 16,
        **more,
    }


def vae(channels: list[int], layers: int, groups: int, **more) -> dict:
    return {
        "block_out_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "layers_per_block": layers,
        "norm_num_groups": groups,
        "latent_channels": 4,
        "sample_size": 16 * 2 ** (len(channels) - 1),
        **more,
    }


def added(pooled: int, sizes: int) -> dict:
    """What SDXL's U-Net takes beside the text states: a pooled state, and six sizes with sinusoids of a width."""
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": sizes,
        "projection_class_embeddings_input_dim": pooled + 6 * sizes,
    }


DDIM = {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}

EULER = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1}

CONFIGURATIONS = [
    # As Stable Diffusion 1.x in its older files: convolutions around the transformers, none at the coarsest level.
    Configuration(
        "sd1",
        text(64, 4, 2, 256),
        unet([32, 64, 64, 64], 8, "bbb-", 8, layers_per_block=2),
        vae([16, 32, 32, 32], 2, 8),
        PNDM,
        Files(text_prefix=True, old_vae_keys=True, tokenizer="vocabulary"),
    ),
    # As Stable Diffusion 2.x: linear projections, heads that grow with the width, v-prediction, "!" as padding.
    Configuration(
        "sd2",
        text(128, 2, 3, 512, "gelu"),
        unet([40, 56, 88], [5, 7, 11], "bb-", 8, layers_per_block=1, use_linear_projection=True, upcast_attention=True),
        vae([16, 24, 40], 1, 8),
        {**DDIM, "prediction_type": "v_prediction"},
        Files(dtype=torch.float16, variant="fp16", shard="200KB", pad="!"),
    ),
    # Nothing is a power of two; the time embedding is in the other order.
    Configuration(
        "odd-widths",
        text(88, 11, 3, 200, layer_norm_eps=1e-6),
        unet(
            [24, 40], [3, 4], "bb", 4, layers_per_block=3, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6,
            sample_size=12,
        ),
        vae([8, 24], 3, 4, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.13025, sample_size=24),
        DDIM,
        Files(tokenizer="json"),
    ),
    # Cross-attention at one level on the way down only, at another on the way up only.
    Configuration(
        "some-blocks",
        text(40, 5, 1, 96, "gelu"),
        unet([32, 48, 64], [2, 3, 4], "ubd", 16, layers_per_block=1, downsample_padding=0),
        vae([16, 16, 32], 2, 16, mid_block_add_attention=False),
        DDIM,
        Files(dtype=torch.bfloat16),
    ),
    # Several transformer layers a block, as in SDXL, and a number of them at every level.
    Configuration(
        "deep-transformers",
        text(96, 6, 2, 384, "gelu"),
        unet(
            [32, 64, 96], [2, 4, 6], "-bb", 16, layers_per_block=[1, 2, 1], transformer_layers_per_block=[1, 2, 3],
            use_linear_projection=True,
        ),
        vae([32, 32, 64], 1, 32, use_post_quant_conv=False),
        {**DDIM, "beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        Files(dtype=torch.float16),
    ),
    Configuration(
        "one-head",
        text(48, 1, 4, 96),
        unet([16, 32], 1, "bb", 8, layers_per_block=2),
        vae([8, 16], 2, 2),
        {**DDIM, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        Files(shard="60KB", text_prefix=True),
    ),
    # Wide heads, as at the coarse levels of Stable Diffusion 1.x, and a head width no vector unit likes.
    Configuration(
        "wide-heads",
        text(192, 3, 2, 400),
        unet([64, 160], [1, 1], "bb", 32, layers_per_block=1),
        vae([32, 64], 1, 32),
        {**DDIM, "beta_schedule": "squaredcos_cap_v2"},
        Files(old_vae_keys=True),
    ),
    # As Stable Diffusion's inpainting models: a mask and what is kept beside the latents.
    Configuration(
        "inpainting",
        text(64, 4, 2, 256),
        unet([32, 64], [4, 8], "bb", 8, layers_per_block=1, in_channels=9),
        vae([16, 32], 1, 8),
        PNDM,
    ),
    # As a latent consistency model: told the guidance scale, which nothing else brings in.
    Configuration(
        "lcm",
        text(64, 4, 2, 256),
        unet([32, 64], [4, 8], "bb", 8, layers_per_block=1, time_cond_proj_dim=24),
        vae([16, 32], 1, 8),
        {"_class_name": "LCMScheduler", "original_inference_steps": 40, "steps_offset": 1},
    ),
    # As SDXL: no attention at the finest level, deep transformers at the others.
    Configuration(
        "xl",
        text(64, 4, 3, 256),
        unet(
            [32, 64, 96], [1, 2, 3], "-bb", 16, layers_per_block=2, transformer_layers_per_block=[1, 2, 4],
            use_linear_projection=True, **added(80, 32),
        ),
        vae([16, 32, 32], 2, 8, scaling_factor=0.13025),
        EULER,
        Files(dtype=torch.float16, variant="fp16"),
        text(96, 6, 4, 384, "gelu", projection_dim=80),
    ),
    Configuration(
        "xl-odd-widths",
        text(40, 5, 2, 100, "gelu", layer_norm_eps=1e-6),
        unet(
            [24, 40], [3, 4], "bb", 4, layers_per_block=1, transformer_layers_per_block=[2, 1],
            flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, sample_size=12, **added(36, 14),
        ),
        vae([8, 24], 1, 4, use_quant_conv=False, sample_size=24),
        DDIM,
        Files(tokenizer="json"),
        text(56, 7, 2, 130, projection_dim=36),
    ),
    # An empty negative prompt is encoded; the wide encoder comes first.
    Configuration(
        "xl-some-blocks",
        text(96, 3, 4, 200),
        unet([32, 48, 64], [2, 3, 4], "ubd", 16, layers_per_block=[1, 2, 1], use_linear_projection=True, **added(24, 8)),
        vae([16, 16, 32], 1, 16, mid_block_add_attention=False),
        {**DDIM, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        Files(dtype=torch.bfloat16, tokenizer="vocabulary", text_prefix=True),
        text(24, 2, 3, 64, "gelu", projection_dim=24),
        force_zeros=False,
    ),
    Configuration(
        "xl-upcast",
        text(32, 2, 1, 64, "gelu"),
        unet(
            [16, 32], [2, 2], "bb", 8, layers_per_block=2, upcast_attention=True, use_linear_projection=True,
            **added(48, 10),
        ),
        vae([8, 16], 2, 8),
        EULER,
        Files(shard="60KB"),
        text(32, 2, 2, 64, "gelu", projection_dim=48),
    ),
    # As SDXL's inpainting models.
    Configuration(
        "xl-inpainting",
        text(32, 2, 2, 64),
        unet(
            [32, 64], [2, 4], "-b", 8, layers_per_block=1, transformer_layers_per_block=[1, 2],
            use_linear_projection=True, in_channels=9, **added(48, 10),
        ),
        vae([16, 32], 1, 8, scaling_factor=0.13025),
        EULER,
        Files(dtype=torch.float16),
        text(48, 4, 2, 96, "gelu", projection_dim=48),
    ),
    # As distilled for few steps: the guidance scale is a condition.
    Configuration(
        "xl-guidance",
        text(48, 4, 3, 96),
        unet(
            [32, 64], [4, 8], "-b", 8, layers_per_block=1, transformer_layers_per_block=[1, 3],
            use_linear_projection=True, time_cond_proj_dim=20, **added(40, 16),
        ),
        vae([16, 16], 1, 8),
        DDIM,
        Files(dtype=torch.float16),
        text(80, 5, 3, 160, "gelu", projection_dim=40),
    ),
    # The pooled state is one of many layers, and wider than what it is projected from.
    Configuration(
        "xl-deep-text",
        text(24, 3, 6, 48),
        unet([40, 56, 88], [5, 7, 11], "bb-", 8, layers_per_block=1, **added(72, 6)),
        vae([16, 24, 40], 1, 8),
        {**DDIM, "prediction_type": "v_prediction"},
        Files(dtype=torch.float16, variant="fp16", shard="200KB"),
        text(40, 4, 7, 80, "gelu", projection_dim=72),
    ),
]


def _generator(*words: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32("/".join(words).encode()))


@torch.no_grad()
def randomize(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Fills every parameter: matrices keep the variance of what goes through, norms and biases are jittered."""
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "embedding" in name and parameter.dim() == 2 and "time_embedding" not in name:
            noise = noise * (0.1 if "token" in name else 0.03)
        elif parameter.dim() >= 2:
            noise = noise / math.sqrt(parameter[0].numel())
            if any(part in name for part in ("to_q.", "to_k.", "q_proj.", "k_proj.")):
                noise = noise * 1.2  # peaked attention
        elif "norm" in name and name.endswith("weight"):
            noise = 1 + 0.2 * noise
        else:
            noise = 0.1 * noise
        parameter.copy_(noise)


def build(configuration: Configuration, folder: Path) -> None:
    files = configuration.files
    xl = configuration.text_2 is not None
    encoders = {"text_encoder": CLIPTextModel(CLIPTextConfig(**_tokens(files.tokenizer, files.pad), **configuration.text))}
    if xl:
        config = CLIPTextConfig(**_tokens(files.tokenizer, "!"), **configuration.text_2)
        encoders["text_encoder_2"] = CLIPTextModelWithProjection(config)
    width = sum(encoder.config.hidden_size for encoder in encoders.values())
    latents = configuration.vae["latent_channels"]
    options = {"cross_attention_dim": width, "in_channels": latents, "out_channels": latents, **configuration.unet}
    network = UNet2DConditionModel(**options)
    autoencoder = AutoencoderKL(**configuration.vae)
    for part, module in (*encoders.items(), ("unet", network), ("vae", autoencoder)):
        randomize(module, _generator(configuration.name, part))
        # Half precision files: the values are rounded once, here, and read as they are by both sides.
        module.to(files.dtype).save_pretrained(
            folder / part, variant=files.variant, **({"max_shard_size": files.shard} if files.shard else {})
        )
    if files.text_prefix:
        _rename(folder / "text_encoder", lambda key: f"text_model.{key}")
        _add_position_ids(folder / "text_encoder")
    if files.old_vae_keys:
        _rename(folder / "vae", _old_vae_key)
    _write_tokenizer(folder / "tokenizer", files.tokenizer, files.pad)
    if xl:
        _write_tokenizer(folder / "tokenizer_2", files.tokenizer, "!")
    _write_json(
        folder / "scheduler" / "scheduler_config.json",
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, **configuration.scheduler},
    )
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline",
            "_diffusers_version": "0.35.0",
            "scheduler": ["diffusers", configuration.scheduler["_class_name"]],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "feature_extractor": [None, None],
            **(_xl_parts(configuration) if xl else {"safety_checker": [None, None]}),
        },
    )


def _xl_parts(configuration: Configuration) -> dict:
    return {
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "force_zeros_for_empty_prompt": configuration.force_zeros,
    }


def _tokens(kind: str, pad: str) -> dict:
    # Of the file that is read where a folder has both.
    tokenizer = MINI / "tokenizer"
    if kind == "vocabulary":
        vocabulary = json.loads((tokenizer / "vocab.json").read_text())
    else:
        vocabulary = json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    return {
        "vocab_size": len(vocabulary),
        "bos_token_id": vocabulary["<|startoftext|>"],
        "eos_token_id": vocabulary["<|endoftext|>"],
        "pad_token_id": vocabulary[pad],
    }


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _rename(folder: Path, rename) -> None:
    for path in _weight_files(folder):
        save_file({rename(key): tensor for key, tensor in load_file(path).items()}, path, {"format": "pt"})
    for path in folder.glob("*.index.json"):
        index = json.loads(path.read_text())
        index["weight_map"] = {rename(key): file for key, file in index["weight_map"].items()}
        _write_json(path, index)


def _add_position_ids(folder: Path) -> None:
    path = _weight_files(folder)[0]
    name = "text_model.embeddings.position_ids"
    save_file({**load_file(path), name: torch.arange(POSITIONS)[None]}, path, {"format": "pt"})
    for index_path in folder.glob("*.index.json"):
        index = json.loads(index_path.read_text())
        index["weight_map"][name] = path.name
        _write_json(index_path, index)


def _old_vae_key(key: str) -> str:
    if "mid_block.attentions" not in key:
        return key
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        key = key.replace(f".{new}.", f".{old}.")
    return key


def _write_tokenizer(folder: Path, kind: str, pad: str) -> None:
    """The embedded model's vocabulary, in the files of older or newer versions of transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {"vocabulary": ["vocab.json", "merges.txt"], "json": ["tokenizer.json"]}
    for name in names.get(kind, [*names["vocabulary"], *names["json"]]):
        shutil.copy(MINI / "tokenizer" / name, folder / name)
    special = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": pad,
    }
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        {**special, "model_max_length": POSITIONS, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer"},
    )


def _write_json(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


@dataclass(frozen=True)
class Parts:
    """A folder's networks as diffusers and transformers load them, in one dtype, frozen."""

    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder_2: CLIPTextModelWithProjection | None = None

    @property
    def text_encoders(self) -> list:
        return [encoder for encoder in (self.text_encoder, self.text_encoder_2) if encoder is not None]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Parts:
    def part(kind: type, name: str):
        variant = "fp16" if list((folder / name).glob("*.fp16*.safetensors")) else None
        module, report = kind.from_pretrained(folder / name, variant=variant, output_loading_info=True)
        lost = [key for keys in (report["missing_keys"], report["mismatched_keys"]) for key in keys]
        if lost:
            raise RuntimeError(f"{folder / name}: not read: {lost[:4]}")
        return module.to(dtype).eval().requires_grad_(False)

    return Parts(
        part(CLIPTextModel, "text_encoder"),
        part(UNet2DConditionModel, "unet"),
        part(AutoencoderKL, "vae"),
        part(CLIPTextModelWithProjection, "text_encoder_2") if (folder / "text_encoder_2").exists() else None,
    )


def build_all(out: Path) -> dict[str, Path]:
    """Writes what is not there yet; returns the folders by name, the embedded model with them."""
    folders = {"mini": MINI}
    for configuration in CONFIGURATIONS:
        folder = out / configuration.name
        if not folder.exists():
            unfinished = out / f"{configuration.name}.tmp"
            shutil.rmtree(unfinished, ignore_errors=True)
            build(configuration, unfinished)
            unfinished.rename(folder)
        folders[configuration.name] = folder
    return folders


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    for name, folder in build_all(parser.parse_args().out).items():
        print(name, folder)
