"""One side of bench/run.mjs: diffusers, driven by lines of JSON. Prints what opening took, then an answer a line.

    python diffusers_peer.py MODEL DTYPE LAYOUT

`train` is a step as diffusers' own examples/textual_inversion/textual_inversion.py does it: the photo goes through the
VAE every time, the text encoder is in fp32 (under autocast where the rest is in bfloat16), AdamW moves the whole
embedding table, and the rows that are not the placeholder's are put back. `sample` is StableDiffusionPipeline.
LAYOUT is channels-last or contiguous.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

logging.disable_progress_bar()
transformers_logging.disable_progress_bar()
folder, dtype, layout = sys.argv[1], getattr(torch, sys.argv[2]), sys.argv[3]
PROMPT = "a photo of a person at the beach"


def answer(value) -> None:
    print(json.dumps(value), flush=True)


def peak() -> float:
    """Peak resident set in GB since the last call."""
    status = Path("/proc/self/status").read_text()
    kilobytes = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    Path("/proc/self/clear_refs").write_text("5")
    return kilobytes / 2**20


def now() -> tuple[float, float]:
    """The clock, and the seconds that all threads of this process have computed for."""
    return time.perf_counter(), time.process_time()


def difference(earlier: tuple, later: tuple) -> tuple:
    return tuple(end - begin for begin, end in zip(earlier, later))


def intervals(marks: list) -> list:
    return [difference(earlier, later) for earlier, later in zip(marks, marks[1:])]


def split(parts: dict) -> dict:
    return {
        "times": {part: [clock for clock, _ in values] for part, values in parts.items()},
        "cpu": {part: [cpu for _, cpu in values] for part, values in parts.items()},
    }


def arrange(module):
    return module.to(memory_format=torch.channels_last) if layout == "channels-last" else module


class Training:
    def __init__(self) -> None:
        load = lambda kind, part, **options: kind.from_pretrained(folder, subfolder=part, **options)
        self.tokenizer = load(CLIPTokenizer, "tokenizer")
        self.text = load(CLIPTextModel, "text_encoder", dtype=torch.float32).train()
        self.vae = arrange(load(AutoencoderKL, "vae", torch_dtype=dtype))
        self.unet = arrange(load(UNet2DConditionModel, "unet", torch_dtype=dtype))
        self.scheduler = load(DDPMScheduler, "scheduler")
        for module in (self.text, self.vae, self.unet):
            module.requires_grad_(False)
        self.embeddings = self.text.get_input_embeddings()
        self.embeddings.requires_grad_(True)
        self.original = self.embeddings.weight.detach().clone()
        self.optimizer = torch.optim.AdamW(self.embeddings.parameters(), lr=5e-4, weight_decay=1e-2)
        ids = self.tokenizer(PROMPT, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        self.ids = ids.input_ids
        self.placeholder = self.ids[0, 5]
        size = self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.pixels = torch.rand(1, 3, size, size) * 2 - 1

    def step(self) -> tuple[float, float]:
        """What the VAE took of it, as of now()."""
        pixels = self.pixels.to(dtype)
        begin = now()
        latents = self.vae.encode(pixels).latent_dist.sample().detach() * self.vae.config.scaling_factor
        encoding = difference(begin, now())
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, self.scheduler.config.num_train_timesteps, (1,))
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        autocast = torch.autocast("cpu", dtype) if dtype != torch.float32 else contextlib.nullcontext()
        with autocast:
            states = self.text(self.ids)[0].to(dtype)
        prediction = self.unet(noisy, timesteps, states).sample
        loss = F.mse_loss(prediction.float(), noise.float(), reduction="mean")
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        kept = torch.ones(len(self.original), dtype=torch.bool)
        kept[self.placeholder] = False
        with torch.no_grad():
            self.embeddings.weight[kept] = self.original[kept]
        loss.item()
        return encoding

    def train(self, steps: int):
        """As ours: the first step does not count."""
        marks, encodings = [], []
        for _ in range(steps + 1):
            encodings.append(self.step())
            marks.append(now())
        whole = intervals(marks)
        return {"step": whole, "unencoded": [difference(e, w) for e, w in zip(encodings[1:], whole)]}


class Sampling:
    def __init__(self) -> None:
        self.pipe = StableDiffusionPipeline.from_pretrained(
            folder, torch_dtype=dtype, safety_checker=None, requires_safety_checker=False
        )
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.scheduler = DDIMScheduler.from_config(self.pipe.scheduler.config)
        arrange(self.pipe.unet)
        arrange(self.pipe.vae)

    def sample(self, steps: int):
        """As ours: the first step, which has what is done once, does not count."""
        marks = []

        def mark(pipe, step, timestep, tensors):
            marks.append(now())
            return {}

        self.pipe(PROMPT, num_inference_steps=steps + 1, guidance_scale=7.5, callback_on_step_end=mark, output_type="np")
        marks.append(now())
        times = intervals(marks)
        return {"step": times[:-1], "decode": times[-1:]}

    def picture(self, steps: int):
        marks = [now()]
        self.pipe(PROMPT, num_inference_steps=steps, guidance_scale=7.5, output_type="np")
        return {"whole": intervals([*marks, now()])}


since = time.perf_counter()
state = {"mode": "sampling", "side": Sampling()}
answer({"open": time.perf_counter() - since, "peak": peak()})
for line in sys.stdin:
    command = json.loads(line)
    # One of the two at a time, so that each has the memory that its own program would take.
    mode = "training" if command["do"] == "train" else "sampling"
    if state["mode"] != mode:
        state.clear()
        state.update(mode=mode, side=Training() if mode == "training" else Sampling())
    peak()
    parts = getattr(state["side"], command.pop("do"))(**command)
    answer({**split(parts), "peak": peak()})
