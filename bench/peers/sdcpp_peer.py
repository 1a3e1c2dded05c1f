"""One side of bench/run.mjs: stable-diffusion.cpp draws a picture, weights in float16 as in the model's files.

    python sdcpp_peer.py MODEL.safetensors [--flash-attention] [--direct-convolution]

Its steps are DDIM's; with guidance it runs the U-Net twice a step.
"""

import json
import os
import sys
import time
from pathlib import Path

from stable_diffusion_cpp import StableDiffusion

PROMPT = "a photo of a person at the beach"


def peak() -> float:
    """Peak resident set in GB since the last call."""
    status = Path("/proc/self/status").read_text()
    kilobytes = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    Path("/proc/self/clear_refs").write_text("5")
    return kilobytes / 2**20


def now() -> tuple[float, float]:
    """The clock, and the seconds that all threads of this process have computed for."""
    return time.perf_counter(), time.process_time()


def intervals(marks: list, part: int) -> list:
    return [end[part] - begin[part] for begin, end in zip(marks, marks[1:])]


since = time.perf_counter()
model = StableDiffusion(
    model_path=sys.argv[1],
    vae_decode_only=True,
    n_threads=os.cpu_count(),
    diffusion_flash_attn="--flash-attention" in sys.argv,
    diffusion_conv_direct="--direct-convolution" in sys.argv,
    vae_conv_direct="--direct-convolution" in sys.argv,
    verbose=False,
)
print(json.dumps({"open": time.perf_counter() - since, "peak": peak()}), flush=True)
for line in sys.stdin:
    steps = json.loads(line)["steps"]
    marks = []

    def mark(step: int, of: int, seconds: float) -> None:
        # The decoder has a progress of its own where it works in tiles.
        if of == steps + 1 and step > 0:
            marks.append(now())

    peak()
    model.generate_image(
        PROMPT,
        negative_prompt="",
        width=512,
        height=512,
        cfg_scale=7.5,
        sample_method="ddim_trailing",
        sample_steps=steps + 1,
        seed=1,
        progress_callback=mark,
    )
    marks.append(now())
    # As the others: the first step, which has what is done once, does not count.
    parts = [intervals(marks, part) for part in (0, 1)]
    times, cpu = ({"step": values[:-1], "decode": values[-1:]} for values in parts)
    print(json.dumps({"times": times, "cpu": cpu, "peak": peak()}), flush=True)
