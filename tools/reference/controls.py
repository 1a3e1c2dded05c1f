"""ControlNets of random weights for the folders of models.py and the embedded model, and what diffusers computes with them.

    python controls.py --models FOLDER --out FOLDER

writes OUT/nets/<net>/ in the diffusers layout; a file `<net>.safetensors` with inputs and residuals, alone and together
with a second net, and what the U-Net makes of them; a file `picture-<k>.safetensors` a whole picture with `images`
[N, height, width, 3] in 0..255, the control pictures, `image` and `mask` where it begins from a picture, and the
metadata `case`, JSON with what to ask for.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from beginnings import as_image, mask_of
from beginnings import picture as beginning
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
)
from method import split_cross_attention
from models import _generator, build_all, load, randomize
from PIL import Image
from pictures import load_pipeline
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class Net:
    name: str
    model: str
    widths: tuple[int, ...]  # of the picture's embedding
    options: dict  # other than the U-Net's


NETS = [
    Net("mini-edges", "mini", (16, 24, 40, 56), {}),
    Net("mini-other", "mini", (8, 8, 8, 8), {"attention_head_dim": 4}),
    Net("sd1-edges", "sd1", (16, 32, 96, 256), {}),
    # No attention anywhere, and one resnet in the middle: as the smallest of those for SDXL.
    Net("sd1-plain", "sd1", (8, 16, 24, 32), {"down_block_types": ["DownBlock2D"] * 4, "mid_block_type": "UNetMidBlock2D"}),
    Net("sd2-edges", "sd2", (7, 9, 11), {}),
    # Transformers without a layer in them: as the middle one of those for SDXL.
    Net("sd2-shallow", "sd2", (4, 12, 8), {"transformer_layers_per_block": 0}),
    Net("odd-widths-edges", "odd-widths", (5, 3), {}),
    Net("some-blocks-edges", "some-blocks", (6, 10, 14), {}),
    Net("one-head-edges", "one-head", (16, 32), {}),
    Net("wide-heads-edges", "wide-heads", (16, 8), {}),
    Net("xl-edges", "xl", (4, 12, 8), {}),
    # Without SDXL's conditions, which it need not take.
    Net("xl-plain", "xl", (6, 6, 6), {"transformer_layers_per_block": [1, 1, 1], "addition_embed_type": None}),
    Net("xl-odd-widths-edges", "xl-odd-widths", (5, 3), {}),
]  # fmt: skip

SHARED = [
    "in_channels", "flip_sin_to_cos", "freq_shift", "down_block_types", "mid_block_type", "block_out_channels",
    "layers_per_block", "downsample_padding", "norm_num_groups", "norm_eps", "cross_attention_dim",
    "transformer_layers_per_block", "attention_head_dim", "use_linear_projection", "upcast_attention",
    "addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim",
]  # fmt: skip


def build(net: Net, folder: Path, unet) -> ControlNetModel:
    options = {key: unet.config[key] for key in SHARED}
    model = ControlNetModel(**{**options, "conditioning_embedding_out_channels": net.widths, **net.options})
    randomize(model, _generator(net.name, "controlnet"))
    with torch.no_grad():
        # Zero before training; here as strong as features are.
        for block in (*model.controlnet_down_blocks, model.controlnet_mid_block):
            block.weight *= 0.5
    model.save_pretrained(folder)
    return model.eval().requires_grad_(False)


def picture(generator: torch.Generator, batch: int, height: int, width: int) -> Tensor:
    """Bytes, smooth but not symmetric: a net must not care for anything else."""
    coarse = torch.rand((batch, 3, height // 8 + 1, width // 8 + 1), generator=generator)
    return (F.interpolate(coarse, (height, width), mode="bilinear") * 255).round()


@torch.no_grad()
def residuals(net: Net, folder: Path, nets: Path, own: ControlNetModel, other: ControlNetModel) -> dict[str, Tensor]:
    parts = load(folder)
    unet = parts.unet
    generator = torch.Generator().manual_seed(len(net.name))
    coarsest = 2 ** (len(unet.config.block_out_channels) - 1)
    factor = 2 ** (len(net.widths) - 1)
    width = unet.config.cross_attention_dim
    positions = parts.text_encoder.config.max_position_embeddings
    # Odd sizes: halved, they are rounded up.
    height, wide = 3 * coarsest + 1, 4 * coarsest - 1
    given = {
        "latents": torch.randn((2, unet.config.in_channels, height, wide), generator=generator),
        "timesteps": torch.tensor([3.0, 700.5]),
        "states_k": torch.randn((2, positions, width), generator=generator),
        "states_v": torch.randn((2, positions, width), generator=generator),
        "image": picture(generator, 2, height * factor, wide * factor) / 255,
    }
    if parts.text_encoder_2:
        given["pooled"] = torch.randn((2, parts.text_encoder_2.config.projection_dim), generator=generator)
        given["time_ids"] = torch.tensor([[128.0, 96, 0, 0, 128, 96], [64, 72, 3, 1, 60, 60]])
    more = {"text_embeds": given["pooled"], "time_ids": given["time_ids"]} if parts.text_encoder_2 else {}
    contexts = [split_cross_attention(module) for module in (own, other, unet)]

    def run(values: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        for context in contexts:
            context.keys, context.values = given["states_k"], values
        common = given["latents"], given["timesteps"], given["states_k"]
        first, second = (
            [*down, mid]
            for down, mid in (
                model(*common, controlnet_cond=given["image"], added_cond_kwargs=more, return_dict=False)
                for model in (own, other)
            )
        )
        both = [one + 0.25 * two for one, two in zip(first, second)]
        result = unet(
            *common, down_block_additional_residuals=both[:-1], mid_block_additional_residual=both[-1],
            added_cond_kwargs=more,
        )  # fmt: skip
        return first, both, [result.sample]

    def named(prefix: str, tensors: list[Tensor]) -> dict[str, Tensor]:
        names = [*(f"residual.{k}" for k in range(len(tensors) - 1)), "residual.mid"]
        return {f"{prefix}.{name}": tensor for name, tensor in zip(names, tensors)}

    first, both, output = run(given["states_v"])
    same, _, _ = run(given["states_k"])
    rounded = ControlNetModel.from_pretrained(nets / net.name, dtype=torch.bfloat16)
    latents, timesteps, states, image = (given[name] for name in ("latents", "timesteps", "states_k", "image"))
    down, mid = rounded(
        latents.bfloat16(), timesteps, states.bfloat16(), image.bfloat16(), added_cond_kwargs=more, return_dict=False
    )
    plain = unet(
        given["latents"], given["timesteps"], encoder_hidden_states=given["states_k"], added_cond_kwargs=more
    ).sample
    return {
        **{f"given.{key}": tensor for key, tensor in given.items()},
        **named("own", first),
        **named("same", same),
        **named("bf16", [*down, mid]),
        **named("both", both),
        "output": output[0],
        "plain": plain,
    }


@dataclass(frozen=True)
class Control:
    net: str
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


@dataclass(frozen=True)
class Case:
    model: str
    controls: tuple[Control, ...]
    scheduler: str | None = None
    prompt: str = "a photo of a person at the beach"
    negative: str = "a cat"
    steps: int = 6
    guidance: float = 4.0
    seeds: tuple[int, ...] = (1,)
    width: int = 64
    height: int = 64
    strength: float | None = None  # where it begins from a picture; one seed
    mask: bool = False


CASES = [
    Case("mini", (Control("mini-edges"),), width=128, height=96, seeds=(7, 8)),
    Case("mini", (Control("mini-edges", 0.6), Control("mini-other", 0.3)), "euler", guidance=1.0),
    Case("mini", (Control("mini-edges", 0.8, end=0.5),), "dpm++2m"),
    Case("mini", (Control("mini-edges", -0.5, start=0.34), Control("mini-other", 0.4, 0.2, 0.67)), "ddim", steps=9),
    Case("sd1", (Control("sd1-edges", 0.5, 0.1, 0.9),), "pndm", steps=5),
    Case("sd1", (Control("sd1-plain", 0.5),), seeds=(1, 2)),
    Case("sd2", (Control("sd2-edges", 0.3), Control("sd2-shallow", 0.3, end=0.5)), "unipc", width=72, height=56),
    Case("xl", (Control("xl-edges", 0.6), Control("xl-plain", 0.3, end=0.5)), seeds=(3, 4), width=72, height=56),
    # Beginning from a picture: a window is a share of the steps that are left.
    Case("mini", (Control("mini-edges", 0.6), Control("mini-other", 0.4, 0.2, 0.7)), "ddim", steps=9, strength=0.6),
    Case("sd1", (Control("sd1-edges", 0.5),), "euler-a", strength=0.8, height=48),
    Case("mini", (Control("mini-edges", 0.7, end=0.6),), "unipc", steps=8, strength=0.7, mask=True, width=128, height=96),
    Case("xl", (Control("xl-edges", 0.6),), strength=0.7, width=72, height=56),
    Case("xl", (Control("xl-edges", 0.6, end=0.5),), "ddim", steps=8, strength=0.8, mask=True, width=48),
]  # fmt: skip


# What a picture begins from, of Stable Diffusion and of SDXL.
PIPELINES = {
    "text": (StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline),
    "picture": (StableDiffusionControlNetImg2ImgPipeline, StableDiffusionXLControlNetImg2ImgPipeline),
    "mask": (StableDiffusionControlNetInpaintPipeline, StableDiffusionXLControlNetInpaintPipeline),
}


def draw(case: Case, folder: Path, nets: Path) -> dict[str, Tensor]:
    models = [ControlNetModel.from_pretrained(nets / control.net) for control in case.controls]
    xl = (folder / "text_encoder_2").exists()
    kind = PIPELINES["mask" if case.mask else "text" if case.strength is None else "picture"][xl]
    pipe = load_pipeline(kind, folder, case.scheduler, controlnet=models)
    generator = torch.Generator().manual_seed(len(case.prompt) + case.steps)
    pictures = [picture(generator, 1, case.height, case.width)[0].permute(1, 2, 0) for _ in models]
    shown = [Image.fromarray(one.numpy().astype(numpy.uint8)) for one in pictures]
    more, begun = {"image": shown, "width": case.width, "height": case.height}, {}
    if case.strength is not None:
        image, mask = (as_image(make(case.width, case.height)) for make in (beginning, mask_of))
        more |= {"image": image, "control_image": shown, "strength": case.strength}
        begun["image"] = torch.from_numpy(numpy.array(image))
        if case.mask:
            more["mask_image"], begun["mask"] = mask, torch.from_numpy(numpy.array(mask))
    count = len(case.seeds)
    images = pipe(
        prompt=[case.prompt] * count,
        negative_prompt=[case.negative] * count,
        num_inference_steps=case.steps,
        guidance_scale=case.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in case.seeds],
        controlnet_conditioning_scale=[control.scale for control in case.controls],
        control_guidance_start=[control.start for control in case.controls],
        control_guidance_end=[control.end for control in case.controls],
        output_type="np",
        **more,
    ).images
    return {
        "images": torch.from_numpy((images * 255).round()).float(),
        **{f"control.{k}": one for k, one in enumerate(pictures)},
        **begun,
    }


def save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    save_file({key: tensor.float().contiguous().clone() for key, tensor in tensors.items()}, path, metadata)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    nets = arguments.out / "nets"
    nets.mkdir(parents=True, exist_ok=True)
    folders = build_all(arguments.models)
    built = {net.name: build(net, nets / net.name, load(folders[net.model]).unet) for net in NETS}
    for net in NETS:
        others = [one for one in NETS if one.model == net.model and one is not net]
        other = others[0] if others else net
        tensors = residuals(net, folders[net.model], nets, built[net.name], ControlNetModel.from_pretrained(nets / other.name))
        words = {"model": net.model, "net": net.name, "other": other.name}
        save(tensors, arguments.out / f"{net.name}.safetensors", words)
    for index, case in enumerate(CASES):
        tensors = draw(case, folders[case.model], nets)
        path = arguments.out / f"picture-{index}.safetensors"
        save(tensors, path, {"case": json.dumps(asdict(case))})
        Image.fromarray(tensors["images"][0].numpy().astype(numpy.uint8)).save(path.with_suffix(".png"))


if __name__ == "__main__":
    main()
