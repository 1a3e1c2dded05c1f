"""What a full-size model of full_size.py takes in diffusers, in bfloat16: to open, for a picture, for a training step.

    python full_size_run.py --folder FOLDER --steps N

prints after each a line of JSON with all seconds so far and the process's peak memory in GB. The training step is Textual Inversion's: the
gradient of the noise's error for one token's embedding, through text encoders and U-Net, weights frozen.
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from method import encode


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def train(pipe, size: int) -> None:
    xl = hasattr(pipe, "text_encoder_2")
    pairs = [(pipe.tokenizer, pipe.text_encoder), *([(pipe.tokenizer_2, pipe.text_encoder_2)] if xl else [])]
    states, learnt, more = [], [], {}
    for tokenizer, encoder in pairs:
        ids = tokenizer("a photo of a person", padding="max_length", max_length=77, return_tensors="pt").input_ids
        vector = encoder.get_input_embeddings().weight[ids[0, 4:5]].detach().clone().requires_grad_()
        learnt.append(vector)
        encoded = encode(encoder, ids, [[(4, vector)]])
        states.append(encoded.hidden_states[-2] if xl else encoded.last_hidden_state)
        if xl and encoder is pipe.text_encoder_2:
            sizes = torch.tensor([[size, size, 0, 0, size, size]], dtype=torch.float32)
            more = {"added_cond_kwargs": {"text_embeds": encoded.text_embeds.detach(), "time_ids": sizes}}
    config = pipe.unet.config
    noise = torch.randn(1, config.in_channels, config.sample_size, config.sample_size)
    timestep = torch.tensor([500])
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    noisy = scheduler.add_noise(torch.zeros_like(noise), noise, timestep).to(pipe.unet.dtype)
    output = pipe.unet(noisy, timestep, encoder_hidden_states=torch.cat(states, -1), **more).sample
    torch.autograd.grad(((output.float() - noise) ** 2).mean(), learnt)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1)
    arguments = parser.parse_args()
    result = {"threads": torch.get_num_threads()}

    def timed(name: str, work):
        since = time.perf_counter()
        value = work()
        result[name] = time.perf_counter() - since
        result[f"{name}Peak"] = peak()
        print(json.dumps(result), flush=True)
        return value

    kind = StableDiffusionXLPipeline if (arguments.folder / "text_encoder_2").exists() else StableDiffusionPipeline
    pipe = timed("open", lambda: kind.from_pretrained(arguments.folder, dtype=torch.bfloat16))
    pipe.set_progress_bar_config(disable=True)
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval().requires_grad_(False)
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    timed("draw", lambda: pipe("a photo of a person at the beach", num_inference_steps=arguments.steps))
    timed("step", lambda: train(pipe, size))


if __name__ == "__main__":
    main()
