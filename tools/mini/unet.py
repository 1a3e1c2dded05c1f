"""Trains the U-Net on cached latents with the text encoder frozen.  Resumable: run the same command again.

The noise error is weighted by min-SNR, twice on the pixels of what the caption is about, and the attention of nouns is
drawn to what they name.  Every `--sheet-every` samples the averaged weights draw the prompts of prompts.py: look at them.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from attention import attention_loss, use_plain_attention
from diffusion import generate, new_scheduler, new_unet, states_of
from labels import noun_places
from pictures import load_records, shard_paths
from prompts import SHEET
from runtime import CHANNELS_LAST, Average, Log, Stop, bf16, load_state, save_state
from sheet import contact_sheet

CHECK = 256  # pictures never trained on, for the validation error


class Data:
    """Latents, token ids, masks and noun places of every shard that is encoded."""

    def __init__(self, folders: list[Path], latents: Path, tokenizer: CLIPTokenizer):
        shards = [p for p in shard_paths(folders) if (latents / f'{p.stem}.npy').exists()]
        self.latents = torch.from_numpy(np.concatenate([np.load(latents / f'{p.stem}.npy') for p in shards]))
        masks = [np.fromfile(p.with_suffix('.masks'), np.uint8).reshape(-1, 3, 16, 16) for p in shards]
        self.masks = torch.from_numpy(np.concatenate(masks))
        records = [r for p in shards for r in map(json.loads, open(p.with_suffix('.jsonl')))]
        tokens = tokenizer([r['caption'] for r in records]).input_ids
        self.places = torch.from_numpy(noun_places(tokenizer, records, tokens))
        self.ids = torch.full((len(tokens), 77), tokenizer.eos_token_id, dtype=torch.int16)
        for i, t in enumerate(tokens):
            self.ids[i, : len(t)] = torch.tensor(t, dtype=torch.int16)
        self.count = len(self.latents) - CHECK

    def rows(self, rows: torch.Tensor):
        return self.latents[rows].float(), self.ids[rows].long(), self.masks[rows].float() / 255, self.places[rows].long()


class Trainer:
    def __init__(self, a):
        self.a = a
        self.tokenizer = CLIPTokenizer.from_pretrained(a.tokenizer)
        self.text = CLIPTextModel.from_pretrained(a.text, attn_implementation='eager').eval().requires_grad_(False)
        self.vae = AutoencoderKL.from_pretrained(a.latents / 'vae').eval().requires_grad_(False)
        self.data = Data(a.pictures, a.latents, self.tokenizer)
        self.unet = new_unet()
        if a.start_from:
            self.start_from(a.start_from)
        self.unet = self.unet.to(memory_format=CHANNELS_LAST)
        self.records: list = []
        use_plain_attention(self.unet, self.records)
        self.optimiser = torch.optim.AdamW(
            [
                {'params': [p for p in self.unet.parameters() if p.ndim > 1], 'weight_decay': 0.01},
                {'params': [p for p in self.unet.parameters() if p.ndim <= 1], 'weight_decay': 0.0},
            ],
            lr=a.rate,
            betas=(0.9, 0.99),
            fused=True,
        )
        self.average = Average(self.unet, 0.9985)
        self.seen = self.step = 0
        if state := load_state(a.work / 'unet-state.pt'):
            self.unet.load_state_dict(state['unet'])
            self.optimiser.load_state_dict(state['optimiser'])
            self.average.weights, self.seen, self.step = state['average'], state['seen'], state['step']
        self.shadow = copy.deepcopy(self.unet).eval().requires_grad_(False)
        use_plain_attention(self.shadow)
        self.alphas = new_scheduler().alphas_cumprod
        snr = self.alphas / (1 - self.alphas)
        weights = (snr.clamp(max=5) / snr) * ((snr + 1) / snr).clamp(max=5)
        self.weights = weights / weights.mean()
        self.empty = self.tokenizer('', padding='max_length', max_length=77, return_tensors='pt').input_ids
        self.log = Log(a.work / 'unet-log.jsonl')

    def start_from(self, folder: Path) -> None:
        """Takes over what an earlier U-Net knows about pictures; it must learn to listen to these words anew."""
        known = UNet2DConditionModel.from_pretrained(folder).state_dict()
        fresh = self.unet.state_dict()
        kept = {k: v for k, v in known.items() if not ('attn2.to_k' in k or 'attn2.to_v' in k)}
        self.unet.load_state_dict(fresh | kept)

    def rate(self) -> float:
        a = self.a
        rate = a.rate * min(1, (self.step + 1) / 300) * min(1, math.sqrt(a.constant / max(1, self.seen)))
        if a.finish:  # the last stretch: down to a twentieth
            left = max(0.0, (a.until - self.seen) / a.finish)
            rate *= 0.05 + 0.95 * min(1.0, left)
        return rate

    def noisy(self, latents, t, noise):
        alpha = self.alphas[t].view(-1, 1, 1, 1)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def train_step(self) -> tuple[float, float]:
        a = self.a
        rows = torch.randint(0, self.data.count, (a.batch,))
        latents, ids, masks, places = self.data.rows(rows)
        dropped = torch.rand(len(rows)) < 0.1
        ids[dropped] = self.empty
        places[dropped] = -1
        # One time from each stratum: a far steadier loss than independent times.
        t = ((torch.arange(a.batch) + torch.rand(a.batch)) * (1000 / a.batch)).long().clamp(max=999)
        noise = torch.randn_like(latents)
        self.records.clear()
        with bf16():
            with torch.no_grad():
                states = self.text(ids)[0]
            guess = self.unet(self.noisy(latents, t, noise).contiguous(memory_format=CHANNELS_LAST), t, states).sample
        error = (guess.float() - noise).square()
        subject = 1 + masks.amax(1, keepdim=True)
        loss = ((error * subject / subject.mean((1, 2, 3), keepdim=True)).mean((1, 2, 3)) * self.weights[t]).mean()
        looked = attention_loss(self.records, places, masks) if a.attention else torch.zeros(())
        self.optimiser.zero_grad(set_to_none=True)
        (loss + a.attention * looked).backward()
        torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group['lr'] = self.rate()
        self.optimiser.step()
        self.average.update(self.unet, self.step)
        self.step += 1
        self.seen += a.batch
        return error.mean().item(), looked.item()

    @torch.no_grad()
    def check(self) -> list[float]:
        """Mean squared noise error of the averaged weights on unseen pictures: all times, then by quarters of the times."""
        self.average.copy_to(self.shadow)
        random = torch.Generator().manual_seed(5)
        t = torch.randint(0, 1000, (CHECK,), generator=random)
        noise = torch.randn(CHECK, 4, 16, 16, generator=random)
        errors = []
        for start in range(0, CHECK, 64):
            part = slice(start, start + 64)
            latents, ids, _, _ = self.data.rows(torch.arange(self.data.count + start, self.data.count + start + 64))
            with bf16():
                guess = self.shadow(self.noisy(latents, t[part], noise[part]), t[part], self.text(ids)[0]).sample
            errors.append((guess.float() - noise[part]).square().mean((1, 2, 3)))
        errors = torch.cat(errors)
        return [errors.mean().item()] + [errors[(t >= q * 250) & (t < q * 250 + 250)].mean().item() for q in range(4)]

    def sheet(self) -> None:
        self.average.copy_to(self.shadow)
        states, empty = states_of(self.text, self.tokenizer, SHEET), states_of(self.text, self.tokenizer, [''])
        pictures = generate(self.shadow, self.vae, states, empty)
        contact_sheet(pictures, SHEET, self.a.work / 'sheets' / f'{self.seen:09d}.png')

    def save(self) -> None:
        state = {'unet': self.unet.state_dict(), 'optimiser': self.optimiser.state_dict(), 'average': self.average.weights}
        save_state(self.a.work / 'unet-state.pt', **state, seen=self.seen, step=self.step)
        self.average.copy_to(self.shadow)
        self.shadow.save_pretrained(self.a.work / 'unet')

    def run(self) -> None:
        a = self.a
        self.log.write(pictures=self.data.count, seen=self.seen, parameters=sum(p.numel() for p in self.unet.parameters()))
        errors, looks, started = [], [], time.time()
        stop = Stop()
        while self.seen < a.until and not stop:
            before = self.seen
            error, looked = self.train_step()
            errors.append(error)
            looks.append(looked)

            def passed(every: int) -> bool:
                return self.seen // every > before // every

            if self.step % 50 == 0:
                speed = len(errors) * a.batch / (time.time() - started)
                self.log.write(seen=self.seen, step=self.step, error=float(np.mean(errors)), attention=float(np.mean(looks)), rate=self.rate(), speed=speed)
                errors, looks, started = [], [], time.time()
            if passed(10_000):
                self.save()
            if passed(25_000):
                whole, *quarters = self.check()
                self.log.write(seen=self.seen, check=whole, quarters=[round(q, 4) for q in quarters])
            if passed(a.sheet_every):
                self.sheet()
        self.save()
        if not stop:
            self.sheet()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument('--pictures', type=Path, nargs='+', required=True)
    arguments.add_argument('--latents', type=Path, required=True)
    arguments.add_argument('--tokenizer', type=Path, required=True)
    arguments.add_argument('--text', type=Path, required=True, help='the learnt text encoder')
    arguments.add_argument('--work', type=Path, required=True)
    arguments.add_argument('--start-from', type=Path, help='an earlier U-Net folder of the same shape')
    arguments.add_argument('--until', type=int, default=1_500_000, help='samples')
    arguments.add_argument('--batch', type=int, default=64)
    arguments.add_argument('--rate', type=float, default=8e-4)
    arguments.add_argument('--constant', type=int, default=300_000, help='samples at the full rate; then it falls as 1/sqrt')
    arguments.add_argument('--finish', type=int, default=0, help='length of the last stretch in samples, where the rate goes to a twentieth')
    arguments.add_argument('--attention', type=float, default=0.02)
    arguments.add_argument('--sheet-every', type=int, default=50_000)
    arguments.add_argument('--threads', type=int, default=2)
    a = arguments.parse_args()
    torch.set_num_threads(a.threads)
    Trainer(a).run()


if __name__ == '__main__':
    main()
