"""Whole pictures with subjects in the prompt: every step with the vectors of its stage, K and V apart.

    python subjects.py --models FOLDER --out FOLDER

writes one file a case: `images` [N, height, width, 3] in 0..255 and each subject's vectors `k.<name>` and `v.<name>`
[stages, tokens, width], those for a second text encoder with .1 behind, and with a ControlNet its picture `control`; the
net lies in OUT/nets. The metadata `case` is JSON with what to ask for; beside it a PNG of the first picture.
"""

import argparse
import inspect
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import torch
from controls import build, picture
from controls import NETS as ALL_NETS
from method import Slots, added_conditions, split_cross_attention, text_states
from models import build_all, load
from PIL import Image
from prompt_states import isolated_states
from safetensors.torch import save_file
from torch import Tensor
from trajectories import make
from transformers import AutoTokenizer


NETS = {net.name: net for net in ALL_NETS}


@dataclass(frozen=True)
class Subject:
    name: str
    class_word: str
    stages: int
    shared: bool = False


ANNA = Subject("anna", "person", 5)
REX = Subject("rex", "dog", 3)
PAIR = Subject("a pair", "cat dog", 4)
ONE = Subject("one", "person", 1, shared=True)


@dataclass(frozen=True)
class Case:
    model: str
    prompt: str
    subjects: tuple[Subject, ...]
    scheduler: str
    negative: str = ""
    steps: int = 7
    guidance: float = 4.0
    seeds: tuple[int, ...] = (1, 2)
    width: int = 64
    height: int = 64
    net: str | None = None  # a ControlNet of controls.py
    isolate: bool = False


CASES = [
    Case("mini", "a photo of <anna> at the beach", (ANNA,), "ddim", width=128, height=128),
    Case("mini", "<anna> with <rex>, and <anna>", (ANNA, REX), "euler", negative="<rex>", width=96, height=128),
    Case("sd1", "a <rex> and <one>", (ONE, REX), "dpm++2m", guidance=1.0),
    Case("sd2", "a picture of <a pair>, <anna>", (ANNA, PAIR), "euler-a"),
    Case("some-blocks", "<one>", (ONE,), "pndm"),
    Case("mini", "<anna> in the snow", (ANNA,), "ddim", width=128, height=96, net="mini-edges"),
    Case("sd2", "<rex>, <anna>", (ANNA, REX), "euler", guidance=1.0, net="sd2-edges"),
    Case("xl", "a photo of <anna> with <a pair>", (ANNA, PAIR), "euler", negative="a dog, <anna>", width=72),
    Case("xl-odd-widths", "<rex> and <one>", (ONE, REX), "ddim", guidance=1.0, width=24, height=32),
    Case("mini", "<anna> and a dog in the snow", (ANNA,), "ddim", negative="<anna>, a cat", width=128, isolate=True),
    Case("xl", "<a pair> with <anna> at the beach", (ANNA, PAIR), "euler", negative="a dog", width=72, isolate=True),
]


def vectors(subject: Subject, encoder, tokenizer, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Far enough from the class word that stages, K and V cannot be taken for one another."""
    table = encoder.get_input_embeddings().weight
    embedding = table[torch.tensor(tokenizer(subject.class_word, add_special_tokens=False).input_ids)]
    shape = (subject.stages, *embedding.shape)
    keys, values = (embedding + table.std() * torch.randn(shape, generator=generator) for _ in range(2))
    return keys, keys if subject.shared else values


class Prompt:
    """A prompt's ids with class words for placeholders, and where each subject stands."""

    def __init__(self, text: str, subjects: tuple[Subject, ...], tokenizers: list):
        tokenizer = tokenizers[0]
        words = {subject.name: subject for subject in subjects}
        self.places: list[tuple[str, int]] = []
        plain = ""
        for index, piece in enumerate(re.split(r"<([^>]+)>", text)):
            if index % 2:
                self.places.append((piece, 1 + len(tokenizer(plain, add_special_tokens=False).input_ids)))
                piece = words[piece].class_word
            plain += piece
        self.ids = [
            one(plain, padding="max_length", max_length=one.model_max_length, return_tensors="pt").input_ids
            for one in tokenizers
        ]

    def slots(self, learnt: list[dict[str, Tensor]], stages: dict[str, int]) -> list[list[Slots]]:
        """For each text encoder, of which each has vectors of its own."""
        return [[[(position, one[name][stages[name]]) for name, position in self.places]] for one in learnt]


@torch.no_grad()
def draw(case: Case, folder: Path, nets: Path) -> dict[str, Tensor]:
    parts = load(folder)
    names = ["tokenizer", "tokenizer_2"][: len(parts.text_encoders)]
    tokenizers = [AutoTokenizer.from_pretrained(folder / name) for name in names]
    net = build(NETS[case.net], nets / case.net, parts.unet) if case.net else None
    contexts = [split_cross_attention(module) for module in (parts.unet, net) if module is not None]
    scheduler = make(json.loads((folder / "scheduler" / "scheduler_config.json").read_text()), case.scheduler)
    generator = torch.Generator().manual_seed(len(case.prompt))
    learnt = [
        {subject.name: vectors(subject, encoder, tokenizers[0], generator) for subject in case.subjects}
        for encoder in parts.text_encoders
    ]
    kinds = [[{name: pair[kind] for name, pair in one.items()} for one in learnt] for kind in range(2)]
    prompt, negative = (Prompt(text, case.subjects, tokenizers) for text in (case.prompt, case.negative))
    sizes = [float(size) for size in (case.height, case.width, 0, 0, case.height, case.width)]
    added = [added_conditions(parts, text.ids, sizes) for text in (negative, prompt)]

    factor = 2 ** (len(parts.vae.config.block_out_channels) - 1)
    noise = [torch.Generator().manual_seed(seed) for seed in case.seeds]
    shape = (1, parts.unet.config.in_channels, case.height // factor, case.width // factor)
    latents = torch.cat([torch.randn(shape, generator=one) for one in noise])
    more = {"generator": noise} if "generator" in inspect.signature(scheduler.step).parameters else {}
    image = picture(generator, 1, case.height, case.width)
    encode = isolated_states if case.isolate else text_states
    scheduler.set_timesteps(case.steps)
    latents = latents * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        # Euler's timesteps lie between the whole numbers.
        train_timesteps = scheduler.config.num_train_timesteps
        stages = {s.name: min(s.stages - 1, int(float(timestep) * s.stages / train_timesteps)) for s in case.subjects}
        states = [
            [encode(parts, text.ids, text.slots(kind, stages)) for kind in kinds]
            for text in (negative, prompt)
        ]
        given = scheduler.scale_model_input(latents, timestep)

        def predict(which: int) -> Tensor:
            keys, values = (kind.expand(len(given), -1, -1) for kind in states[which])
            for context in contexts:
                context.keys, context.values = keys, values
            conditions = {key: tensor.expand(len(given), -1) for key, tensor in added[which].items()}
            more = {"added_cond_kwargs": conditions}
            if net is not None:
                down, middle = net(given, timestep, keys, controlnet_cond=image / 255, return_dict=False, **more)
                more |= {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            return parts.unet(given, timestep, encoder_hidden_states=keys, **more).sample

        output = predict(1)
        if case.guidance > 1:
            unwanted = predict(0)
            output = unwanted + case.guidance * (output - unwanted)
        latents = scheduler.step(output, timestep, latents, **more).prev_sample
    pictures = parts.vae.decode(latents / parts.vae.config.scaling_factor).sample
    images = ((pictures / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1)
    named = {
        f"{kind}.{name}" + (f".{index}" if index else ""): pair["kv".index(kind)]
        for kind in "kv"
        for index, one in enumerate(learnt)
        for name, pair in one.items()
    }
    shown = {"control": image[0].permute(1, 2, 0)} if net is not None else {}
    return {"images": images, **shown, **named}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    folders = build_all(arguments.models)
    for index, case in enumerate(CASES):
        tensors = draw(case, folders[case.model], arguments.out / "nets")
        path = arguments.out / f"{index:02}.safetensors"
        separate = {key: tensor.contiguous().clone() for key, tensor in tensors.items()}
        save_file(separate, path, {"case": json.dumps(asdict(case))})
        Image.fromarray(tensors["images"][0].numpy().astype(numpy.uint8)).save(path.with_suffix(".png"))


if __name__ == "__main__":
    main()
