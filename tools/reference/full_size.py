"""The architectures of Stable Diffusion 1.5, 2.1 and XL in full size with random weights, in fp16 files.

    python full_size.py --family sd15|sd21|sdxl --out FOLDER

writes a diffusers folder of 2.1, 2.6 or 6.9 GB: it shows that such a model opens, learns and draws, not what it draws.
Files of 1.5 are whole and the others in shards of at most 1 GB. No more than one file is held in memory.
"""

import argparse
import json
import math
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from huggingface_hub import split_torch_state_dict_into_shards
from models import MINI
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
NOISE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
FAMILIES = {
    "sd15": {
        "text": {
            "hidden_size": 768,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "intermediate_size": 3072,
            "hidden_act": "quick_gelu",
        },
        "unet": {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64},
        "scheduler": {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **NOISE},
        "pad": "<|endoftext|>",
        "shard": "100GB",
    },
    "sd21": {
        "text": {
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "num_hidden_layers": 23,
            "intermediate_size": 4096,
            "hidden_act": "gelu",
        },
        "unet": {
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "sample_size": 96,
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        "scheduler": {"_class_name": "DDIMScheduler", "clip_sample": False, "prediction_type": "v_prediction", **NOISE},
        "pad": "!",
        "shard": "1GB",
    },
    "sdxl": {
        "text": {
            "hidden_size": 768,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "intermediate_size": 3072,
            "hidden_act": "quick_gelu",
        },
        "text_2": {
            "hidden_size": 1280,
            "num_attention_heads": 20,
            "num_hidden_layers": 32,
            "intermediate_size": 5120,
            "hidden_act": "gelu",
            "projection_dim": 1280,
        },
        "unet": {
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "sample_size": 128,
        },
        "vae": {"scaling_factor": 0.13025, "sample_size": 1024},
        "scheduler": {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", **NOISE},
        "pad": "<|endoftext|>",
        "shard": "1GB",
    },
}


_XL_PARTS = {
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "force_zeros_for_empty_prompt": True,
}


def build(family: str, folder: Path) -> None:
    options = FAMILIES[family]
    _write_tokenizer(folder / "tokenizer", options["pad"])
    tokens = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407}
    parts = {
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**tokens, **options["text"])),
        "unet": lambda: UNet2DConditionModel(**options["unet"]),
        "vae": lambda: AutoencoderKL(**{**VAE, **options.get("vae", {})}),
    }
    xl = "text_2" in options
    if xl:
        parts["text_encoder_2"] = lambda: CLIPTextModelWithProjection(CLIPTextConfig(**tokens, **options["text_2"]))
        _write_tokenizer(folder / "tokenizer_2", "!")
    for name, make in parts.items():
        with torch.device("meta"):
            module = make()
        stem = "model" if name.startswith("text_encoder") else "diffusion_pytorch_model"
        _write_config(module, folder / name)
        _write_weights(module, folder / name, stem, options["shard"])
    _write_json(folder / "scheduler" / "scheduler_config.json", options["scheduler"])
    _write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline",
            "scheduler": ["diffusers", options["scheduler"]["_class_name"]],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            **(_XL_PARTS if xl else {}),
        },
    )


def _write_config(module: torch.nn.Module, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(module, (CLIPTextModel, CLIPTextModelWithProjection)):
        module.config.architectures = [type(module).__name__]
        module.config.save_pretrained(folder)
    else:
        module.save_config(folder)


def _write_weights(module: torch.nn.Module, folder: Path, stem: str, shard: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        name: torch.empty(tensor.shape, dtype=torch.float16, device="meta")
        for name, tensor in module.state_dict().items()
        if not name.endswith("position_ids")
    }
    split = split_torch_state_dict_into_shards(
        shapes, filename_pattern=stem + "{suffix}.safetensors", max_shard_size=shard
    )
    # Shard by shard, so that no more than one is in memory.
    for file, names in split.filename_to_tensors.items():
        weights = {name: _weight(name, tuple(shapes[name].shape), generator) for name in names}
        save_file(weights, folder / file, {"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        _write_json(folder / f"{stem}.safetensors.index.json", index)


def _weight(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.full(shape, 1.0 if "norm" in name and name.endswith("weight") else 0.0).half()
    scale = 0.02 if "embedding" in name and "time_" not in name else 1 / math.sqrt(math.prod(shape[1:]))
    return (torch.randn(shape, generator=generator) * scale).half()


def _write_tokenizer(folder: Path, pad: str) -> None:
    """CLIP's vocabulary is not ours to ship: the embedded model's words, the special ids at CLIP's places."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = json.loads((MINI / "tokenizer" / "vocab.json").read_text())
    special = {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    filler = {f"unused{index}</w>": index for index in range(len(vocabulary) - len(special), 49406)}
    words = {word: index for word, index in vocabulary.items() if word not in special}
    _write_json(folder / "vocab.json", {**words, **filler, **special})
    shutil.copy(MINI / "tokenizer" / "merges.txt", folder / "merges.txt")
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": pad}
    _write_json(folder / "special_tokens_map.json", names)
    _write_json(
        folder / "tokenizer_config.json",
        {**names, "model_max_length": 77, "do_lower_case": True, "tokenizer_class": "CLIPTokenizer"},
    )


def _write_json(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if not arguments.out.exists():
        unfinished = arguments.out.with_suffix(".tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        build(arguments.family, unfinished)
        unfinished.rename(arguments.out)
