"""What diffusers computes with every folder of models.py and the embedded model: text states, pooled states, U-Net, VAE
both ways.

    python outputs.py --models FOLDER --out FOLDER

writes one file a model with inputs and fp32 outputs, and under bf16. what diffusers computes in bfloat16.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline
from method import encode, split_cross_attention
from models import Parts, build_all, load
from safetensors.torch import save_file
from torch import Tensor


def inputs(name: str, parts: Parts) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(len(name))
    encoder, unet, vae = parts.text_encoder.config, parts.unet.config, parts.vae.config
    more = added_inputs(parts, generator) if parts.text_encoder_2 else {}
    channels, width = unet.in_channels, unet.cross_attention_dim
    coarsest = 2 ** (len(unet.block_out_channels) - 1)
    factor = 2 ** (len(vae.block_out_channels) - 1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        **more,
        "text.ids": torch.randint(0, encoder.vocab_size, (3, encoder.max_position_embeddings), generator=generator),
        "unet.latents": noise(2, channels, 3 * coarsest, 4 * coarsest),
        # Euler's timesteps lie between the whole numbers.
        "unet.timesteps": torch.tensor([3.0, 700.5]),
        "unet.states_k": noise(2, encoder.max_position_embeddings, width),
        "unet.states_v": noise(2, encoder.max_position_embeddings, width),
        # Not a multiple of what the downsampling asks for.
        "uneven.latents": noise(1, channels, 3 * coarsest + 1, 4 * coarsest - 1),
        "uneven.timesteps": torch.tensor([981.0]),
        # Smooth, as a photo is: noise would drive a trained VAE to the ends of its range.
        "vae.image": F.interpolate(noise(2, 3, 3, 4) * 0.5, (4 * factor, 6 * factor), mode="bicubic").clamp(-1, 1),
        "vae.latents": noise(2, vae.latent_channels, 6, 5),
    }


def added_inputs(parts: Parts, generator: torch.Generator) -> dict[str, Tensor]:
    """SDXL's."""
    encoder, unet = parts.text_encoder_2.config, parts.unet.config
    # The end of the text at any place, and behind it what follows.
    ids = torch.randint(0, encoder.vocab_size, (3, encoder.max_position_embeddings), generator=generator)
    ids[ids == encoder.eos_token_id] = 0
    for row, place in enumerate((1, 40, encoder.max_position_embeddings - 1)):
        ids[row, place::3] = encoder.eos_token_id
    given = {
        "text_2.ids": ids,
        "unet.pooled": torch.randn(2, encoder.projection_dim, generator=generator),
        "unet.time_ids": torch.tensor([[1024.0, 768, 0, 0, 1024, 1024], [256, 300, 17, 5, 512, 640]]),
    }
    if unet.time_cond_proj_dim:
        given["unet.guidance"] = torch.tensor([0.0, 6.5])
    return given


def unet_conditions(unet, given: dict[str, Tensor], rows: int) -> dict:
    """diffusers' keywords for what joins the time embedding."""
    more = {}
    if "unet.pooled" in given:
        pooled = given["unet.pooled"][:rows].to(unet.dtype)
        more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": given["unet.time_ids"][:rows]}
    if "unet.guidance" in given:
        embed = StableDiffusionXLPipeline.get_guidance_scale_embedding
        scales = embed(None, given["unet.guidance"][:rows], unet.config.time_cond_proj_dim)
        more["timestep_cond"] = scales.to(unet.dtype)
    return more


@torch.no_grad()
def outputs(parts: Parts, given: dict[str, Tensor]) -> dict[str, Tensor]:
    dtype = parts.unet.dtype

    def cast(name: str) -> Tensor:
        return given[name].to(dtype)

    def unet(case: str, rows: int) -> Tensor:
        states = cast("unet.states_k")[:rows]
        more = unet_conditions(parts.unet, given, rows)
        latents, timesteps = cast(f"{case}.latents"), given[f"{case}.timesteps"]
        return parts.unet(latents, timesteps, encoder_hidden_states=states, **more).sample

    first = encode(parts.text_encoder, given["text.ids"])
    texts = {"text.states": first.last_hidden_state}
    if parts.text_encoder_2:
        second = encode(parts.text_encoder_2, given["text_2.ids"])
        texts = {
            "text.states": first.hidden_states[-2],
            "text_2.states": second.hidden_states[-2],
            "text_2.pooled": second.text_embeds,
        }
    posterior = parts.vae.encode(cast("vae.image")).latent_dist
    return {
        **texts,
        "unet.output": unet("unet", 2),
        "uneven.output": unet("uneven", 1),
        "vae.mean": posterior.mean,
        "vae.std": posterior.std,
        "vae.decoded": parts.vae.decode(cast("vae.latents")).sample,
    }


@torch.no_grad()
def split_output(parts: Parts, given: dict[str, Tensor], expected: Tensor) -> Tensor:
    """The U-Net's output with K and V from different states; with the same states it must be diffusers' own."""
    context = split_cross_attention(parts.unet)
    latents, timesteps, keys = (given[f"unet.{name}"] for name in ("latents", "timesteps", "states_k"))
    context.keys = context.values = keys
    more = unet_conditions(parts.unet, given, 2)
    same = parts.unet(latents, timesteps, encoder_hidden_states=keys, **more).sample
    torch.testing.assert_close(same, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    context.values = given["unet.states_v"]
    return parts.unet(latents, timesteps, encoder_hidden_states=keys, **more).sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, folder in build_all(arguments.models).items():
        parts = load(folder)
        given = inputs(name, parts)
        computed = outputs(parts, given)
        computed["split.output"] = split_output(parts, given, computed["unet.output"])
        rounded = outputs(load(folder, torch.bfloat16), given)
        tensors = {**given, **computed, **{f"bf16.{key}": tensor for key, tensor in rounded.items()}}
        save_file(
            {key: tensor.float().contiguous() for key, tensor in tensors.items()}, arguments.out / f"{name}.safetensors"
        )


if __name__ == "__main__":
    main()
