"""Whole pictures with the guided output rescaled, and with models that are told the guidance scale, by diffusers in fp32.

    python guidance.py --models FOLDER --out FOLDER

writes one file a case with `images` [N, height, width, 3] in 0..255 and the metadata `case`, JSON with what to ask for.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import torch
from diffusers import LatentConsistencyModelPipeline, StableDiffusionPipeline
from models import build_all
from pictures import load_pipeline
from safetensors.numpy import save_file


@dataclass(frozen=True)
class Case:
    model: str
    scheduler: str | None = None
    rescale: float = 0.0
    guidance: float = 9.0
    prompt: str = "a photo of a person at the beach"
    negative: str = "a cat"
    steps: int = 5
    seeds: tuple[int, ...] = (1,)
    width: int = 104
    height: int = 72


CASES = [
    Case("mini", rescale=0.7, seeds=(3, 4)),
    Case("mini", "euler-a", rescale=1.0),
    Case("mini", "lcm", rescale=0.3, guidance=2.0),
    Case("sd1", rescale=0.5, width=40, height=88),
    Case("one-head", rescale=0.7, width=40, height=24),
    *(Case("lcm", guidance=scale, steps=4, seeds=(5, 6), width=40, height=64) for scale in (1.0, 8.5)),
    Case("lcm", "ddim", guidance=3.0, width=64, height=40),
    # Without guidance there is nothing to bring back.
    Case("sd2", rescale=0.7, guidance=1.0, width=72, height=56),
]  # fmt: skip


def draw(case: Case, folder: Path) -> numpy.ndarray:
    told = json.loads((folder / "unet" / "config.json").read_text()).get("time_cond_proj_dim") is not None
    # The former knows LCMScheduler only, the latter takes any; both tell the model.
    consistency = told and case.scheduler in (None, "lcm")
    kind = LatentConsistencyModelPipeline if consistency else StableDiffusionPipeline
    pipe = load_pipeline(kind, folder, case.scheduler)
    count = len(case.seeds)
    more = {} if consistency else {"negative_prompt": [case.negative] * count, "guidance_rescale": case.rescale}
    images = pipe(
        prompt=[case.prompt] * count,
        num_inference_steps=case.steps,
        guidance_scale=case.guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in case.seeds],
        width=case.width,
        height=case.height,
        output_type="np",
        **more,
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
        save_file({"images": images}, arguments.out / f"{index:02}.safetensors", {"case": json.dumps(asdict(case))})


if __name__ == "__main__":
    main()
