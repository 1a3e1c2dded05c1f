"""Whole pictures by diffusers with Textual Inversion files, of one vector and of several, in the prompt; for SDXL the
file is a pair.

    python textual_inversion.py --models FOLDER --out FOLDER

writes for each case NN.safetensors with `images` [N, height, width, 3] in 0..255 and the metadata `case`, JSON with what
to ask for, and NN.embedding, the file that diffusers loaded.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from models import build_all
from pictures import load_pipeline
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors


@dataclass(frozen=True)
class Case:
    model: str
    prompt: str
    tokens: int
    format: str = "diffusers"
    negative: str = ""
    steps: int = 5
    guidance: float = 4.0
    seeds: tuple[int, ...] = (1,)
    width: int = 64
    height: int = 64


CASES = [
    Case("mini", "a photo of <cat-toy> at the beach", 1, width=128, height=128),
    Case("mini", "<cat-toy>, <cat-toy> in the snow", 3, negative="<cat-toy>", seeds=(3, 4)),
    Case("sd1", "a <cat-toy>'s house", 2, format="a1111"),
    Case("xl", "a photo of <cat-toy> at the beach", 1, format="pair", negative="a cat"),
    Case("xl", "<cat-toy> with a <cat-toy>", 3, format="pair", negative="<cat-toy>", seeds=(3, 4), width=72),
]


def write(case: Case, vectors: list[torch.Tensor], path: Path) -> None:
    if case.format == "pair":
        save_tensors(dict(zip(("clip_l", "clip_g"), vectors)), path)
    elif case.format == "diffusers":
        save_tensors({"<cat-toy>": vectors[0]}, path)
    else:
        torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": vectors[0]}, "name": "cat-toy"}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    folders = build_all(arguments.models)
    for index, case in enumerate(CASES):
        pair = case.format == "pair"
        kind = StableDiffusionXLPipeline if pair else StableDiffusionPipeline
        pipe = load_pipeline(kind, folders[case.model], "ddim")
        encoders = [pipe.text_encoder, pipe.text_encoder_2] if pair else [pipe.text_encoder]
        tokenizers = [pipe.tokenizer, pipe.tokenizer_2] if pair else [pipe.tokenizer]
        generator = torch.Generator().manual_seed(index)
        vectors = []
        for encoder in encoders:
            table = encoder.get_input_embeddings().weight.detach()
            vectors.append(table.std() * torch.randn((case.tokens, table.shape[1]), generator=generator))
        path = arguments.out / f"{index:02}.embedding"
        write(case, vectors, path)
        for encoder, tokenizer, own in zip(encoders, tokenizers, vectors):
            loaded = torch.load(path, weights_only=True) if case.format == "a1111" else {"<cat-toy>": own}
            pipe.load_textual_inversion(loaded, token="<cat-toy>", text_encoder=encoder, tokenizer=tokenizer)
        count = len(case.seeds)
        images = pipe(
            prompt=[case.prompt] * count,
            negative_prompt=[case.negative] * count,
            num_inference_steps=case.steps,
            guidance_scale=case.guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in case.seeds],
            width=case.width,
            height=case.height,
            output_type="np",
        ).images
        drawn = numpy.ascontiguousarray((images * 255).round(), dtype=numpy.float32)
        save_file({"images": drawn}, arguments.out / f"{index:02}.safetensors", {"case": json.dumps(asdict(case))})


if __name__ == "__main__":
    main()
