"""What a prompt becomes: chunks encoded apart, weights, subjects, isolation, zeros; the states and the pooled state.

    python prompt_states.py --models FOLDER --out FOLDER

writes one file a case with `keys` and `values` [1, L, C] and, for SDXL, `pooled` [1, P], beside a subject's vectors
`k.<encoder>` and `v.<encoder>`; the metadata `case` is JSON with the engine's PromptTokens and the timestep.

Weights are a convention of other programs, which diffusers does not have: every position's state is multiplied by its
weight, and then all of them by one number, so that their mean is what it was.

Isolated, a position has the state of the prompt with the class word's tokens in the subject's places, unless it is a
subject's own, or its chunk's text has ended there: from the first end on, the end and the padding are of the prompt with
the subject. Where an end is, is what the encoder's pooled state goes by: the first `eos_token_id`; an encoder whose ids do
not have it (older configs say 2) takes the greatest id. Here every chunk has one.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from method import Slots, encode, text_states
from models import Parts, build_all, load
from safetensors.torch import save_file
from torch import Tensor

STAGES = 4


@dataclass(frozen=True)
class Case:
    model: str
    chunks: int = 1
    weighted: bool = False
    places: tuple[int, ...] = ()  # where a subject of two tokens stands
    in_pooled: bool = False
    zero: bool = False
    timestep: float = 620.5
    isolate: bool = False


CASES = [
    Case("sd1", chunks=3),
    Case("sd2", weighted=True),
    Case("sd1", chunks=2, weighted=True, places=(5, 90)),
    Case("sd2", zero=True, chunks=2),
    Case("xl", chunks=2, weighted=True, places=(100,)),
    Case("xl-odd-widths", places=(3, 40), in_pooled=True, timestep=3),
    Case("xl-some-blocks", chunks=2, places=(7, 120), in_pooled=True, timestep=999),
    Case("xl", zero=True),
    Case("sd1", chunks=2, weighted=True, places=(5, 20, 90), isolate=True),
    Case("xl", places=(3,), isolate=True, timestep=3),
]


def ids(parts: Parts, chunks: int, generator: torch.Generator) -> list[Tensor]:
    """For each text encoder [chunks, positions]: words that are the same, an end at some place, its own padding."""
    rows = []
    for encoder in parts.text_encoders:
        config = encoder.config
        positions = config.max_position_embeddings
        words = torch.randint(0, config.vocab_size - 10, (chunks, positions), generator=generator)
        words[:, 0] = config.bos_token_id
        for chunk, end in enumerate(torch.randint(45, positions, (chunks,), generator=generator)):
            words[chunk, end:] = config.pad_token_id
            words[chunk, end] = config.eos_token_id
        rows.append(words)
    return rows


def isolated_states(parts: Parts, ids: list[Tensor], slots: list[list[Slots]]) -> Tensor:
    """As text_states of method.py, but the words beside the subjects from the prompt without them."""
    by_encoder = []
    for encoder, tokens, chunks in zip(parts.text_encoders, ids, slots):
        own = (tokens == encoder.config.eos_token_id).cumsum(1) > 0
        for row, places in zip(own, chunks):
            for place, vectors in places:
                row[place : place + len(vectors)] = True
        by_encoder.append(own[..., None].expand(*own.shape, encoder.config.hidden_size))
    return torch.where(torch.cat(by_encoder, -1), text_states(parts, ids, slots), text_states(parts, ids))


@torch.no_grad()
def compute(case: Case, parts: Parts) -> tuple[dict[str, Tensor], dict]:
    generator = torch.Generator().manual_seed(CASES.index(case))
    tokens = ids(parts, case.chunks, generator)
    positions = tokens[0].shape[1]
    tensors: dict[str, Tensor] = {}
    for index, encoder in enumerate(parts.text_encoders):
        shape = (STAGES, 2, encoder.config.hidden_size)
        for kind in "kv" if case.places else "":
            tensors[f"{kind}.{index}"] = 0.3 * torch.randn(shape, generator=generator)
    stage = min(STAGES - 1, int(case.timestep * STAGES / 1000))

    def slots(kind: str, encoder: int) -> list:
        """For each chunk, in the chunk's own positions."""
        return [
            [(place % positions, tensors[f"{kind}.{encoder}"][stage]) for place in case.places if place // positions == c]
            for c in range(case.chunks)
        ]

    encoders = range(len(tokens))
    weights = 0.5 + torch.rand(case.chunks * positions, generator=generator)
    for name, kind in (("keys", "k"), ("values", "v")):
        states = isolated_states if case.isolate else text_states
        states = states(parts, tokens, [slots(kind, encoder) for encoder in encoders])
        states = states.flatten(0, 1)[None]
        if case.weighted:
            mean = states.mean()
            states = states * weights[None, :, None]
            states = states * (mean / states.mean())
        tensors[name] = torch.zeros_like(states) if case.zero else states
    if parts.text_encoder_2 is not None:
        chosen = slots("k", 1)[:1] if case.in_pooled else None
        pooled = encode(parts.text_encoder_2, tokens[1][:1], chosen).text_embeds
        tensors["pooled"] = torch.zeros_like(pooled) if case.zero else pooled
    if case.weighted:
        tensors["weights"] = weights
    described = {
        "model": case.model,
        "timestep": case.timestep,
        "inPooled": case.in_pooled,
        "prompt": {
            "ids": [one.flatten().tolist() for one in tokens],
            "slots": [{"subject": 0, "position": place} for place in case.places],
            "zero": case.zero,
            "isolate": case.isolate,
        },
    }
    return {key: tensor.float().contiguous().clone() for key, tensor in tensors.items()}, described


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    folders = build_all(arguments.models)
    for index, case in enumerate(CASES):
        tensors, described = compute(case, load(folders[case.model]))
        save_file(tensors, arguments.out / f"{index:02}.safetensors", {"case": json.dumps(described)})


if __name__ == "__main__":
    main()
