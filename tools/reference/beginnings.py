"""Whole pictures that begin from a picture, by diffusers' image-to-image and inpainting pipelines in fp32.

    python beginnings.py --models FOLDER --out FOLDER

writes one file a case with `images` [N, height, width, 3], `image` [height, width, 3] and, of inpainting, `mask`
[height, width], all in 0..255, and the metadata `case`, JSON with what to ask for.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)
from models import build_all
from PIL import Image
from pictures import load_pipeline
from safetensors.numpy import save_file
from trajectories import SCHEDULERS


@dataclass(frozen=True)
class Case:
    model: str
    scheduler: str | None = None
    strength: float = 0.6
    mask: bool = False
    prompt: str = "a photo of a person at the beach"
    negative: str = "a cat"
    steps: int = 8
    guidance: float = 4.0
    seeds: tuple[int, ...] = (1,)
    width: int = 128
    height: int = 128


CASES = [
    *(Case("mini", name, seeds=(7, 123)) for name in SCHEDULERS),
    *(Case("mini", name, strength=1.0, steps=4) for name in ("ddim", "pndm", "euler", "unipc")),
    *(Case("sd1", None, strength, steps=7, width=64, height=48) for strength in (0.15, 0.29, 0.5, 0.9)),
    *(Case("sd2", name, 0.7, width=72, height=56) for name in ("euler-a", "dpm++2m-karras")),
    Case("odd-widths", "pndm", 0.4, guidance=1.0, width=24, height=40),
    *(Case("mini", name, 0.7, mask=True, seeds=(5,), width=96, height=128) for name in SCHEDULERS),
    *(Case("mini", name, 1.0, mask=True, steps=4) for name in ("euler-a", "pndm", "dpm++2m")),
    *(Case("inpainting", name, 0.75, mask=True, width=48, height=64) for name in (None, "euler-a", "unipc", "lcm")),
    *(Case("xl", name, 0.6, width=64, height=48) for name in (None, "euler-a")),
    Case("xl", "unipc", 0.8, mask=True, width=48, height=64),
    Case("xl-odd-widths", "dpm++2m", 0.5, width=24, height=40),
    *(Case("xl-inpainting", name, 0.75, mask=True, width=48, height=64) for name in (None, "unipc")),
    Case("inpainting", "euler-a", 1.0, mask=True, seeds=(2, 9), width=40, height=40),
]  # fmt: skip


def picture(width: int, height: int) -> numpy.ndarray:
    """Some shapes with soft edges on a slope, so that every frequency and colour is there."""
    y, x = numpy.mgrid[0:1 : height * 1j, 0:1 : width * 1j]
    disc = 1 / (1 + numpy.exp(40 * (numpy.hypot(x - 0.4, y - 0.55) - 0.25)))
    waves = 0.5 + 0.5 * numpy.sin(9 * x + 23 * y)
    return numpy.stack([0.2 + 0.7 * x, 0.8 * disc + 0.1 * waves, 0.3 + 0.5 * waves * (1 - y)], -1)


def mask_of(width: int, height: int) -> numpy.ndarray:
    """White to the right of a slope, with a grey margin on either side of what counts as white."""
    y, x = numpy.mgrid[0:1 : height * 1j, 0:1 : width * 1j]
    return numpy.clip(0.5 + 4 * (x - 0.35 - 0.2 * y), 0, 1)


def as_image(values: numpy.ndarray) -> Image.Image:
    return Image.fromarray((values * 255).round().astype(numpy.uint8))


def draw(case: Case, folder: Path) -> dict[str, numpy.ndarray]:
    if (folder / "text_encoder_2").exists():
        kind = StableDiffusionXLInpaintPipeline if case.mask else StableDiffusionXLImg2ImgPipeline
    else:
        kind = StableDiffusionInpaintPipeline if case.mask else StableDiffusionImg2ImgPipeline
    pipe = load_pipeline(kind, folder, case.scheduler)
    image, mask = as_image(picture(case.width, case.height)), as_image(mask_of(case.width, case.height))
    more = {"mask_image": mask, "width": case.width, "height": case.height} if case.mask else {}
    # One call a seed: the inpainting pipeline draws the latents of what is kept with the first generator alone.
    images = [
        pipe(
            prompt=case.prompt,
            negative_prompt=case.negative,
            image=image,
            strength=case.strength,
            num_inference_steps=case.steps,
            guidance_scale=case.guidance,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
            **more,
        ).images[0]
        for seed in case.seeds
    ]
    files = {"images": (numpy.stack(images) * 255).round(), "image": numpy.asarray(image)}
    if case.mask:
        files["mask"] = numpy.asarray(mask)
    # The pipeline's array is a transposed view, and safetensors writes memory as it lies.
    return {name: numpy.ascontiguousarray(values, dtype=numpy.float32) for name, values in files.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    folders = build_all(arguments.models)
    for index, case in enumerate(CASES):
        save_file(
            draw(case, folders[case.model]),
            arguments.out / f"{index:02}.safetensors",
            {"case": json.dumps(asdict(case))},
        )


if __name__ == "__main__":
    main()
