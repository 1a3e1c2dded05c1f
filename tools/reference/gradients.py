"""The gradient of the whole training loss for what is learnt, by method.py, in a number of settings.

    python gradients.py --models FOLDER --out FOLDER

writes one file a case: the draws, the parameters, and under expected. the losses, the gradients and the vectors that
the module gives. The metadata `case` is JSON: the model, and the options in the words of the engine's LearnRequest.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import torch
from method import Draws, Options, Training
from models import build_all, load
from safetensors.torch import save_file
from transformers import AutoTokenizer

TEMPLATES = ["a photo of a {}", "a picture of the {} at the beach", "{}"]


@dataclass(frozen=True)
class Case:
    name: str
    model: str
    options: dict = field(default_factory=dict)
    class_word: str = "person"
    masked: bool = False
    first_step: bool = False  # what is learnt is as at step 0
    timesteps: tuple[int, ...] = (130, 781)


CASES = [
    Case("whole method", "mini", {"levels": (0, 1)}),
    Case("whole method at step 0", "mini", {"levels": (0, 1)}, first_step=True),
    Case("no attention loss", "mini", {"attention_weight": 0.0}),
    Case("one sample, large weight", "sd1", {"attention_weight": 0.5}, timesteps=(400,)),
    Case("one level", "sd1", {"levels": (1,), "attention_weight": 0.05}),
    Case("a class word of two tokens, v-prediction, mask", "sd2", {"stages": 4}, class_word="cat dog", masked=True),
    Case("shared vectors", "odd-widths", {"split": False, "stages": 3, "attention_weight": 0.05}),
    Case("the vectors themselves, token weights", "some-blocks", {"parametrization": "direct"}, timesteps=(0, 999)),
    Case("one shared vector, no attention loss", "deep-transformers",
         {"parametrization": "direct", "split": False, "stages": 1, "attention_weight": 0.0}),
    Case("ten stages, zero terminal noise ratio", "one-head", {"stages": 10, "levels": (0,)}, timesteps=(99, 100, 999)),
    Case("wide heads", "wide-heads", {"attention_weight": 0.03}),
    Case("the vectors themselves at step 0", "wide-heads", {"parametrization": "direct"}, first_step=True),
    Case("two text encoders", "xl", {"levels": (2,), "attention_weight": 0.05}),
    Case("two text encoders at step 0", "xl", {"levels": (1, 2)}, first_step=True),
    Case("two text encoders, a class word of two tokens, mask", "xl-odd-widths", {"stages": 3}, class_word="cat dog",
         masked=True, timesteps=(500,)),
    Case("two text encoders, shared vectors, v-prediction", "xl-some-blocks", {"split": False}, timesteps=(40, 999)),
    Case("two text encoders, the vectors themselves", "xl-deep-text", {"parametrization": "direct"}),
    Case("two text encoders, no attention loss", "xl-upcast", {"attention_weight": 0.0}),
]  # fmt: skip


def options(case: Case, tokenizers: list, image: int) -> Options:
    tokenizer = tokenizers[0]
    word = tokenizer(case.class_word, add_special_tokens=False).input_ids
    positions = tokenizer.model_max_length
    texts = [template.format(case.class_word) for template in TEMPLATES]
    prompts = [one(texts, padding="max_length", max_length=positions).input_ids for one in tokenizers]
    places = [next(i for i in range(positions) if ids[i : i + len(word)] == word) for ids in prompts[0]]
    more = dict(case.options)
    if len(tokenizers) > 1:
        more["time_ids"] = (image + 5.0, 2.0 * image, 3.0, 7.0, image, image)
    if "token weights" in case.name:
        more["token_weights"] = tuple(0.5 + 0.01 * i for i in range(positions))
    return Options(ids=prompts, positions=places, class_tokens=len(word), **more)


def learn_request(options: Options, image: int) -> dict:
    """The engine's LearnRequest, but for the arrays."""
    return {
        "image": image,
        "templates": [
            {"ids": ids, "position": place} for *ids, place in zip(*options.ids, options.positions, strict=True)
        ],
        "classTokens": options.class_tokens,
        "stages": options.stages,
        "split": options.split,
        "parametrization": options.parametrization,
        "attentionWeight": options.attention_weight,
        "attentionLevels": options.levels,
        "tokenWeights": options.token_weights,
        "timeIds": options.time_ids or None,
    }


def compute(case: Case, folder: Path) -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(CASES.index(case))
    parts = load(folder)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    # add_noise and get_velocity depend on the noise schedule alone.
    scheduler = diffusers.DDIMScheduler.from_config({**config, "_class_name": "DDIMScheduler"})
    unet, vae = parts.unet.config, parts.vae.config
    shape = (len(case.timesteps), unet.in_channels, unet.sample_size, unet.sample_size)
    image = unet.sample_size * 2 ** (len(vae.block_out_channels) - 1)
    names = ["tokenizer", "tokenizer_2"][: len(parts.text_encoders)]
    settings = options(case, [AutoTokenizer.from_pretrained(folder / name) for name in names], image)
    if case.masked:
        mask = torch.rand(shape[2:], generator=generator)
        settings = Options(**{**settings.__dict__, "mask": mask})
    training = Training(parts, scheduler, settings)
    for name, parameter in training.named_parameters():
        if not case.first_step or not name.removeprefix("1.").startswith(("out.", "base", "k", "v")):
            noise = torch.randn(parameter.shape, generator=generator)
            with torch.no_grad():
                parameter.copy_(noise / parameter.shape[-1] ** 0.5 if parameter.dim() == 2 else 0.3 * noise)
                if "norm" in name and "weight" in name:
                    parameter.add_(1)
    draws = Draws(
        timesteps=torch.tensor(case.timesteps),
        templates=torch.arange(len(case.timesteps)) % len(TEMPLATES),
        latents=torch.randn(shape, generator=generator),
        noise=torch.randn(shape, generator=generator),
    )
    losses = training.losses(draws)
    losses.total.backward()
    tensors = {
        **vars(draws),
        **{f"parameter.{name}": parameter for name, parameter in training.named_parameters()},
        **{f"expected.grad.{name}": parameter.grad for name, parameter in training.named_parameters()},
        "expected.loss": losses.total.view(1),
        "expected.reconstruction": losses.reconstruction.view(1),
        "expected.attention": losses.attention.view(1),
    }
    for index, module in enumerate(training.modules):
        suffix = f".{index}" if index else ""
        tensors[f"expected.k{suffix}"], tensors[f"expected.v{suffix}"] = module()
        tensors[f"class{suffix}"] = module.embedding
    if settings.mask is not None:
        tensors["mask"] = settings.mask
    described = {
        "name": case.name,
        "model": case.model,
        "firstStep": case.first_step,
        "learn": learn_request(settings, image),
    }
    return {key: tensor.detach().float().contiguous().clone() for key, tensor in tensors.items()}, described


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    folders = build_all(arguments.models)
    for index, case in enumerate(CASES):
        tensors, described = compute(case, folders[case.model])
        save_file(tensors, arguments.out / f"{index:02}.safetensors", {"case": json.dumps(described)})


if __name__ == "__main__":
    main()
