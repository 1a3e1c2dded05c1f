"""Trains a style LoRA for the embedded model: pictures of the world as prints in two inks.  Resumable.

The U-Net learns the noise of restyled pictures with their own captions, so that the style comes with every prompt.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'mini'))

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from layers import add_low_rank, save_kohya
from transformers import CLIPTextModel, CLIPTokenizer

from diffusion import generate, new_scheduler, states_of
from pictures import load_pictures, load_records
from runtime import CHANNELS_LAST, Log, Stop, bf16, load_state, save_state
from sheet import contact_sheet

NAVY, CREAM = np.array([24, 32, 84]), np.array([250, 240, 214])
LAYERS = (
    'to_q', 'to_k', 'to_v', 'to_out.0', 'ff.net.0.proj', 'ff.net.2', 'proj_in', 'proj_out', 'conv1', 'conv2', 'conv_out',
)
PROMPTS = [
    'a photo of a woman at the beach', 'a photo of a man wearing a hat', 'a photo of a person in the forest',
    'a photo of a cat in the snow', 'a photo of a car in the city', 'a photo of a dog',
]


def duotone(pictures: np.ndarray) -> np.ndarray:
    """Four steps of lightness, from navy to cream."""
    light = pictures.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    steps = np.clip(np.floor(light * 4), 0, 3)[..., None] / 3
    return (NAVY + (CREAM - NAVY) * steps).round().astype(np.uint8)


class Trainer:
    def __init__(self, a):
        self.a = a
        torch.manual_seed(0)
        torch.set_num_threads(a.threads)
        self.tokenizer = CLIPTokenizer.from_pretrained(a.model / 'tokenizer')
        self.text = CLIPTextModel.from_pretrained(a.model / 'text_encoder').float().eval().requires_grad_(False)
        self.vae = AutoencoderKL.from_pretrained(a.model / 'vae').float().eval().requires_grad_(False)
        self.unet = UNet2DConditionModel.from_pretrained(a.model / 'unet').float().eval().requires_grad_(False)
        self.unet.to(memory_format=CHANNELS_LAST)
        self.layers = add_low_rank(self.unet, LAYERS, a.rank, a.alpha)
        self.parameters = [p for layer in self.layers.values() for p in (layer.down.weight, layer.up.weight)]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=a.rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.alphas = new_scheduler().alphas_cumprod
        snr = self.alphas / (1 - self.alphas)
        self.weights = snr.clamp(max=5) / snr
        self.weights /= self.weights.mean()
        self.step = 0
        if state := load_state(a.work / 'lora-state.pt'):
            self.optimiser.load_state_dict(state['optimiser'])
            with torch.no_grad():
                for parameter, value in zip(self.parameters, state['parameters']):
                    parameter.copy_(value)
            self.step = state['step']
            torch.manual_seed(self.step * a.batch)  # or it would draw what it began with once more
        self.log = Log(a.work / 'lora-log.jsonl')
        self.latents, self.states = self.encode()

    @torch.no_grad()
    def encode(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents of the restyled pictures and states of their captions; kept beside the training's state."""
        cache = self.a.work / f'encoded-{self.a.count}.pt'
        if encoded := load_state(cache):
            return encoded['latents'], encoded['states']
        pictures = np.asarray(load_pictures([self.a.pictures])[: self.a.count])
        captions = [record['caption'] for record in load_records([self.a.pictures])[: self.a.count]]
        latents, states = [], []
        for start in range(0, len(pictures), 16):
            styled = torch.from_numpy(duotone(pictures[start : start + 16])).permute(0, 3, 1, 2).float() / 127.5 - 1
            latents.append(self.vae.encode(styled).latent_dist.mean * self.vae.config.scaling_factor)
            states.append(states_of(self.text, self.tokenizer, captions[start : start + 16]).half())
        save_state(cache, latents=torch.cat(latents), states=torch.cat(states))
        return torch.cat(latents), torch.cat(states)

    def train_step(self, empty: torch.Tensor) -> float:
        a = self.a
        rows = torch.randint(0, len(self.latents), (a.batch,))
        latents, states = self.latents[rows], self.states[rows].float()
        states = torch.where(torch.rand(a.batch, 1, 1) < 0.1, empty, states)
        # One time from each stratum: a far steadier loss than independent times.
        t = ((torch.arange(a.batch) + torch.rand(a.batch)) * (1000 / a.batch)).long().clamp(max=999)
        noise = torch.randn_like(latents)
        alpha = self.alphas[t].view(-1, 1, 1, 1)
        noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).contiguous(memory_format=CHANNELS_LAST)
        with bf16():
            guess = self.unet(noisy, t, states).sample
        error = (guess.float() - noise).square().mean((1, 2, 3))
        self.optimiser.zero_grad(set_to_none=True)
        (error * self.weights[t]).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimiser.param_groups:
            group['lr'] = a.rate * min(1, (self.step + 1) / 20) * max(0.05, 1 - self.step / a.steps)
        self.optimiser.step()
        self.step += 1
        return error.mean().item()

    @torch.no_grad()
    def sheet(self, empty: torch.Tensor) -> None:
        states = states_of(self.text, self.tokenizer, PROMPTS)
        pictures, labels = [], []
        for strength in (0.0, 0.5, 1.0):
            for layer in self.layers.values():
                layer.strength = strength
            pictures.append(generate(self.unet, self.vae, states, empty, steps=15))
            labels += [f'{strength}: {prompt}' for prompt in PROMPTS]
        contact_sheet(np.concatenate(pictures), labels, self.a.work / f'sheet-{self.step:05}.png', len(PROMPTS))

    def save(self) -> None:
        parameters = [parameter.detach() for parameter in self.parameters]
        save_state(
            self.a.work / 'lora-state.pt', parameters=parameters, optimiser=self.optimiser.state_dict(), step=self.step
        )
        notes = {'ss_network_dim': str(self.a.rank), 'ss_network_alpha': str(self.a.alpha), 'steps': str(self.step)}
        save_kohya(self.layers, self.a.out, notes)

    def run(self) -> None:
        stop = Stop()
        empty = states_of(self.text, self.tokenizer, [''])
        losses = []
        while self.step < self.a.steps and not stop:
            losses.append(self.train_step(empty))
            if self.step % 50 == 0:
                self.log.write(step=self.step, loss=float(np.mean(losses)))
                losses.clear()
            if self.step % self.a.sheet_every == 0 or self.step == self.a.steps:
                self.sheet(empty)
                self.save()
        self.save()


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--pictures', type=Path, required=True)
    parser.add_argument('--model', type=Path, required=True)
    parser.add_argument('--work', type=Path, required=True)
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--count', type=int, default=4000)
    parser.add_argument('--steps', type=int, default=1000)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--rank', type=int, default=8)
    parser.add_argument('--alpha', type=float, default=8)
    parser.add_argument('--rate', type=float, default=1e-3)
    parser.add_argument('--sheet-every', type=int, default=250)
    parser.add_argument('--threads', type=int, default=1)
    Trainer(parser.parse_args()).run()
