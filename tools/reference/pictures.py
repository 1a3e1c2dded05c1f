"""Whole pictures by diffusers' StableDiffusionPipeline and StableDiffusionXLPipeline in fp32.

    python pictures.py --models FOLDER --out FOLDER

writes one file a case with `images` [N, height, width, 3] in 0..255 and the metadata `case`, JSON with what to ask for;
beside it a PNG of the first picture to look at.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from models import build_all
from PIL import Image
from safetensors.numpy import save_file
from trajectories import SCHEDULERS, make

@dataclass(frozen=True)
class Case:
    model: str
    scheduler: str | None = None
    prompt: str = "a photo of a person at the beach"
    negative: str | None = ""
    steps: int = 7
    guidance: float = 4.0
    seeds: tuple[int, ...] = (1,)
    width: int = 128
    height: int = 128


CASES = [
    *(Case("mini", name, negative="a cat", seeds=(7, 123)) for name in SCHEDULERS),
    Case("mini", width=96, height=160, seeds=(0,)),
    Case("mini", "euler", guidance=1.0, negative="not used", seeds=(2**31 + 5,)),
    Case("mini", prompt="a person with sunglasses, in the snow", negative="a dog", steps=20, guidance=7.5, seeds=(1, 2, 3)),
    *(Case("sd1", name, prompt="person, it's 2 dogs!", seeds=(3,), steps=5) for name in (None, "ddim", "dpm++2m")),
    *(Case("sd2", name, seeds=(4, 5), steps=5, width=72, height=56) for name in (None, "euler", "unipc")),
    Case("one-head", seeds=(6,), steps=6, width=32, height=32),
    # Without a negative prompt its states are zeros, unless the folder says otherwise; an empty one is encoded.
    *(Case("xl", name, negative=None, seeds=(7, 8), steps=5, width=72, height=56) for name in (None, "ddim", "dpm++2m")),
    Case("xl", "euler", negative="", seeds=(9,), steps=5, width=64, height=64),
    Case("xl", "unipc", guidance=1.0, negative=None, seeds=(9,), steps=5, width=64, height=64),
    Case("xl-odd-widths", negative="a cat", seeds=(3,), steps=5, width=32, height=24),
    Case("xl-some-blocks", negative=None, seeds=(3,), steps=5, width=64, height=64),
]  # fmt: skip


def load_pipeline(kind: type, folder: Path, scheduler: str | None, **parts):
    """A pipeline of this class in fp32, with a scheduler by the package's name and parts that the folder lacks."""
    variant = "fp16" if list((folder / "unet").glob("*.fp16*")) else None
    xl = (folder / "text_encoder_2").exists()
    more = {"add_watermarker": False} if xl else {"safety_checker": None, "requires_safety_checker": False}
    pipe = kind.from_pretrained(folder, variant=variant, dtype=torch.float32, **more, **parts)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = make(dict(pipe.scheduler.config), scheduler)
    return pipe


def draw(case: Case, folder: Path) -> numpy.ndarray:
    count = len(case.seeds)
    kind = StableDiffusionXLPipeline if (folder / "text_encoder_2").exists() else StableDiffusionPipeline
    images = load_pipeline(kind, folder, case.scheduler)(
        prompt=[case.prompt] * count,
        negative_prompt=None if case.negative is None else [case.negative] * count,
        num_inference_steps=case.steps,
        guidance_scale=case.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in case.seeds],
        width=case.width,
        height=case.height,
        output_type="np",
    ).images
    # The pipeline's array is a transposed view, and safetensors writes memory as it lies.
    return numpy.ascontiguousarray((images * 255).round(), dtype=numpy.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    folders = build_all(arguments.models)
    for index, case in enumerate(CASES):
        images = draw(case, folders[case.model])
        path = arguments.out / f"{index:02}.safetensors"
        save_file({"images": images}, path, {"case": json.dumps(asdict(case))})
        Image.fromarray(images[0].astype(numpy.uint8)).save(path.with_suffix(".png"))


if __name__ == "__main__":
    main()
