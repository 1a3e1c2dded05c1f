"""Long prompts and weighted ones: text states, and whole pictures drawn from them by diffusers' pipeline in fp32.

    python prompts.py --models FOLDER --out FOLDER

diffusers has neither, so this is the definition, apart from the package's own code: a prompt's words fill chunks of
the encoder's positions less two, a word or a subject that does not fit any more begins the next; every chunk has its
begin, its end and its padding and is encoded alone; the states stand one behind the other; the shorter of prompt and
negative prompt gets empty chunks. A weight multiplies the states of its tokens, and then all states by one number, so
that their mean is what it was.

Writes one file a case with `states.k`, `states.v` of the prompt at the case's timestep, `negative`, each subject's
vectors `k.<name>` and `v.<name>`, and, without subjects, `images` [1, height, width, 3] in 0..255.
"""

import argparse
import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import torch
from diffusers import StableDiffusionPipeline
from models import build_all
from pictures import load_pipeline
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel


@dataclass(frozen=True)
class Subject:
    name: str
    class_word: str
    stages: int


ANNA = Subject("anna", "person", 4)
PAIR = Subject("pair", "cat dog", 3)

SENTENCE = "a photo of a person with red hair and a green hat at the beach, "
LONG = SENTENCE * 5 + "in the snow"  # more than one chunk, fewer than three


@dataclass(frozen=True)
class Case:
    model: str
    prompt: str
    negative: str = ""
    subjects: tuple[Subject, ...] = ()
    weights: bool = False
    timestep: float = 600.0
    steps: int = 4
    guidance: float = 4.0
    seed: int = 3
    width: int = 64
    height: int = 48


CASES = [
    Case("mini", LONG, width=96, height=128),
    Case("mini", "a dog", negative=LONG + " and a cat" * 40),
    Case("sd2", LONG, negative="a cat"),
    Case("odd-widths", LONG * 2, guidance=1.0, width=24, height=32),
    Case("mini", "a (dog:1.4) and a [cat], ((red)) \\(hat\\)", negative="(snow:0.5)", weights=True),
    Case("sd2", f"({SENTENCE}:1.3)" + LONG, negative="a [[cat:1.2]] (at 10 : 3)", weights=True),
    Case("sd1", "(dog:0) a person", weights=True, guidance=1.0),
    Case("sd1", "a (dog:1.4", weights=False),
    # The pair would stand over the end of the first chunk.
    Case("mini", "dog " * 74 + "<pair> and <anna>", subjects=(ANNA, PAIR)),
    Case("sd1", "<anna> " + LONG + " with <pair>", negative="<anna>", subjects=(ANNA, PAIR), timestep=12.0),
    Case("sd2", LONG + "(<anna>:1.5) [<pair>]", subjects=(ANNA, PAIR), weights=True, timestep=981.0),
]


def weighted(prompt: str) -> list[tuple[str, float]]:
    """Texts with their weights: every character gets the product of all brackets around it."""
    tokens = re.findall(r"\\[()\[\]\\]|.", prompt, re.S)
    factors = [1.0] * len(tokens)
    shown = [True] * len(tokens)
    open_at: list[int] = []
    for index, token in enumerate(tokens):
        if token in "([":
            open_at.append(index)
        elif token in ")]":
            begin = open_at.pop()
            shown[begin] = shown[index] = False
            factor = 1 / 1.1 if token == "]" else 1.1
            number = re.search(r":\s*(\d*\.?\d+|\d+\.)\s*$", "".join(tokens[begin + 1 : index]))
            if token == ")" and number:
                factor = float(number[1])
                for place in range(index - len(number[0]), index):
                    shown[place] = False
            for place in range(begin + 1, index):
                factors[place] *= factor
    texts: list[tuple[str, float]] = []
    previous = None
    for index, token in enumerate(tokens):
        if not shown[index]:
            previous = None
            continue
        text = token[1:] if len(token) == 2 else token
        if previous is None:
            texts.append((text, factors[index]))
        else:
            texts[-1] = (texts[-1][0] + text, factors[index])
        previous = token
    return texts


@dataclass
class Piece:
    """A word or a subject."""

    ids: list[int]
    weight: float
    subject: str | None = None


def pieces(prompt: str, case: Case, tokenizer) -> list[Piece]:
    words = {subject.name: subject.class_word for subject in case.subjects}
    found = []
    for text, weight in weighted(prompt) if case.weights else [(prompt, 1.0)]:
        for index, part in enumerate(re.split(r"<([^>]+)>", text)):
            ids = tokenizer(words[part] if index % 2 else part, add_special_tokens=False).input_ids
            if index % 2:
                found.append(Piece(ids, weight, part))
                continue
            word: list[int] = []
            for token in ids:
                word.append(token)
                if tokenizer.convert_ids_to_tokens(token).endswith("</w>"):
                    found.append(Piece(word, weight))
                    word = []
            assert not word
    return found


@dataclass
class Chunk:
    ids: list[int]
    weights: list[float]
    slots: list[tuple[int, str]]


def chunks(prompt: str, case: Case, tokenizer) -> list[Chunk]:
    room = tokenizer.model_max_length - 2
    made = [Chunk([], [], [])]
    for piece in pieces(prompt, case, tokenizer):
        if len(made[-1].ids) + len(piece.ids) > room:
            made.append(Chunk([], [], []))
        chunk = made[-1]
        if piece.subject:
            chunk.slots.append((1 + len(chunk.ids), piece.subject))
        chunk.ids += piece.ids
        chunk.weights += [piece.weight] * len(piece.ids)
    return made


def states(encoder: CLIPTextModel, tokenizer, made: list[Chunk], vectors: dict[str, Tensor]) -> Tensor:
    """[1, L, C]; `vectors` [tokens, C] by the subject's name."""
    encoded, factors = [], []
    for chunk in made:
        padding = tokenizer.model_max_length - 2 - len(chunk.ids)
        ids = [tokenizer.bos_token_id, *chunk.ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * padding]

        def insert(_module, _inputs, embeddings: Tensor, chunk: Chunk = chunk) -> Tensor:
            embeddings = embeddings.clone()
            for position, name in chunk.slots:
                embeddings[0, position : position + len(vectors[name])] = vectors[name]
            return embeddings

        handle = encoder.get_input_embeddings().register_forward_hook(insert)
        encoded.append(encoder(torch.tensor([ids]))[0])
        handle.remove()
        factors += [1.0, *chunk.weights, *[1.0] * (padding + 1)]
    plain = torch.cat(encoded, 1)
    if all(factor == 1 for factor in factors):
        return plain
    scaled = plain * torch.tensor(factors)[None, :, None]
    return scaled * (plain.mean() / scaled.mean())


@torch.no_grad()
def compute(case: Case, folder: Path) -> dict[str, Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    pipe = load_pipeline(StableDiffusionPipeline, folder, None)
    encoder = pipe.text_encoder
    generator = torch.Generator().manual_seed(len(case.prompt))
    table = encoder.get_input_embeddings().weight
    learnt: dict[str, tuple[Tensor, Tensor]] = {}
    for subject in case.subjects:
        word = table[torch.tensor(tokenizer(subject.class_word, add_special_tokens=False).input_ids)]
        shape = (subject.stages, *word.shape)
        learnt[subject.name] = tuple(word + table.std() * torch.randn(shape, generator=generator) for _ in range(2))
    stages = {s.name: min(s.stages - 1, math.floor(case.timestep * s.stages / 1000)) for s in case.subjects}

    prompt, negative = (chunks(text, case, tokenizer) for text in (case.prompt, case.negative))
    length = max(len(prompt), len(negative))
    for made in (prompt, negative):
        made += [Chunk([], [], []) for _ in range(length - len(made))]
    keys, values = ({name: pair[kind][stages[name]] for name, pair in learnt.items()} for kind in range(2))
    tensors = {
        "states.k": states(encoder, tokenizer, prompt, keys),
        "states.v": states(encoder, tokenizer, prompt, values),
        "negative": states(encoder, tokenizer, negative, keys),
        **{f"k.{name}": pair[0] for name, pair in learnt.items()},
        **{f"v.{name}": pair[1] for name, pair in learnt.items()},
    }
    if not case.subjects:
        images = pipe(
            prompt_embeds=tensors["states.k"],
            negative_prompt_embeds=tensors["negative"],
            num_inference_steps=case.steps,
            guidance_scale=case.guidance,
            generator=torch.Generator().manual_seed(case.seed),
            width=case.width,
            height=case.height,
            output_type="np",
        ).images
        tensors["images"] = torch.from_numpy(numpy.ascontiguousarray((images * 255).round(), dtype=numpy.float32))
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    folders = build_all(arguments.models)
    for index, case in enumerate(CASES):
        tensors = compute(case, folders[case.model])
        save_file(tensors, arguments.out / f"{index:02}.safetensors", {"case": json.dumps(asdict(case))})


if __name__ == "__main__":
    main()
