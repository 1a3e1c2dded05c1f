"""Trains a ControlNet for the embedded model: pictures of the drawn world from their edges.  Resumable: run the same command again.

The U-Net stays as it is; the net begins as a copy of its first half.  Every `--sheet-every` samples the averaged weights
draw unseen edges: look at them.  At the end, and at every 10,000 samples, the averaged weights are written as a diffusers
folder in fp16.
"""

import argparse
import copy
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'mini'))
from diffusion import new_scheduler, states_of  # noqa: E402
from draw import draw  # noqa: E402
from edges import edges  # noqa: E402
from pictures import SIDE, shard_paths  # noqa: E402
from runtime import CHANNELS_LAST, Average, Log, Stop, bf16, load_state, save_state  # noqa: E402
from sheet import contact_sheet  # noqa: E402

CHECK = 256  # pictures never trained on, for the validation error
DRAWN = 16  # of them on a sheet
WIDTHS = (16, 32, 64, 128)  # of the edges' embedding
NEW = 3.0  # rate of the layers that the U-Net does not have, over that of its copy


class Data:
    """Pictures, their latents and token ids of every shard that is encoded."""

    def __init__(self, folder: Path, latents: Path, tokenizer: CLIPTokenizer, shards: int):
        paths = [p for p in shard_paths([folder]) if (latents / f'{p.stem}.npy').exists()][:shards]
        self.latents = torch.from_numpy(np.concatenate([np.load(latents / f'{p.stem}.npy') for p in paths]))
        self.pictures = [np.memmap(p, np.uint8, 'r').reshape(-1, SIDE, SIDE, 3) for p in paths]
        self.starts = np.cumsum([0] + [len(p) for p in self.pictures])
        self.captions = [json.loads(line)['caption'] for p in paths for line in open(p.with_suffix('.jsonl'))]
        self.ids = tokenizer(self.captions, padding='max_length', max_length=77, return_tensors='pt').input_ids.short()
        self.count = len(self.latents) - CHECK
        self.found: dict[int, np.ndarray] = {}  # edges of the rows asked for so far, eight pixels a byte

    def lines_of(self, row: int) -> np.ndarray:
        if row not in self.found:
            shard = int(np.searchsorted(self.starts, row, 'right')) - 1
            picture = np.array(self.pictures[shard][row - self.starts[shard]])  # a copy: torch takes no read-only ones
            x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
            self.found[row] = np.packbits(edges(x)[0, 0].bool().numpy())
        return np.unpackbits(self.found[row]).reshape(SIDE, SIDE)

    def lines(self, rows: torch.Tensor) -> torch.Tensor:
        x = torch.from_numpy(np.stack([self.lines_of(row) for row in rows.tolist()])).float()[:, None]
        return x.expand(-1, 3, -1, -1).contiguous(memory_format=CHANNELS_LAST)


class Trainer:
    def __init__(self, a):
        self.a = a
        self.tokenizer = CLIPTokenizer.from_pretrained(a.model / 'tokenizer')

        def part(kind, name):
            return kind.from_pretrained(a.model / name, dtype=torch.float32).eval().requires_grad_(False)

        self.text, self.unet, self.vae = part(CLIPTextModel, 'text_encoder'), part(UNet2DConditionModel, 'unet'), part(AutoencoderKL, 'vae')
        self.unet.to(memory_format=CHANNELS_LAST)
        self.data = Data(a.pictures, a.latents, self.tokenizer, a.shards)
        self.net = ControlNetModel.from_unet(self.unet, conditioning_embedding_out_channels=WIDTHS)
        self.net.requires_grad_(True).train().to(memory_format=CHANNELS_LAST)
        # What begins at zero, and the edges' embedding before it, has everything to learn; the copy only needs to adapt.
        new, copied = [], []
        for name, weight in self.net.named_parameters():
            (new if name.startswith('controlnet_') else copied).append(weight)
        groups = [{'params': new, 'factor': NEW}, {'params': copied, 'factor': 1.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=a.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.average = Average(self.net, 0.998)
        self.seen = self.step = 0
        if state := load_state(a.work / 'control-state.pt'):
            self.net.load_state_dict(state['net'])
            self.optimiser.load_state_dict(state['optimiser'])
            self.average.weights, self.seen, self.step = state['average'], state['seen'], state['step']
            torch.manual_seed(self.seen)  # or it would draw what it began with once more
        self.shadow = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.alphas = new_scheduler().alphas_cumprod
        snr = self.alphas / (1 - self.alphas)
        weights = (snr.clamp(max=5) / snr) * ((snr + 1) / snr).clamp(max=5)
        self.weights = weights / weights.mean()
        self.empty = states_of(self.text, self.tokenizer, [''])
        self.log = Log(a.work / 'control-log.jsonl')

    def rate(self) -> float:
        a = self.a
        left = max(0.0, (a.until - self.seen) / (0.3 * a.until))
        return a.rate * min(1, (self.step + 1) / 100) * (0.05 + 0.95 * min(1.0, left))

    def guess(self, net, rows, t, noise, states) -> torch.Tensor:
        """The noise as the U-Net sees it, with the net's residuals or, without a net, alone."""
        alpha = self.alphas[t].view(-1, 1, 1, 1)
        noisy = (alpha.sqrt() * self.data.latents[rows].float() + (1 - alpha).sqrt() * noise).contiguous(memory_format=CHANNELS_LAST)
        more = {}
        if net is not None:
            down, middle = net(noisy, t, states, controlnet_cond=self.data.lines(rows), return_dict=False)
            more = {'down_block_additional_residuals': down, 'mid_block_additional_residual': middle}
        return self.unet(noisy, t, states, **more).sample.float()

    def train_step(self) -> float:
        a = self.a
        rows = torch.randint(0, self.data.count, (a.batch,))
        # One time from each stratum: a far steadier loss than independent times.
        t = ((torch.arange(a.batch) + torch.rand(a.batch)) * (1000 / a.batch)).long().clamp(max=999)
        noise = torch.randn(a.batch, *self.data.latents.shape[1:])
        with bf16():
            with torch.no_grad():
                states = self.text(self.data.ids[rows].long())[0]
            # Without words the edges must do.
            dropped = (torch.rand(a.batch) < 0.25).view(-1, 1, 1)
            states = torch.where(dropped, self.empty.to(states.dtype), states)
            error = (self.guess(self.net, rows, t, noise, states) - noise).square().mean((1, 2, 3))
        self.optimiser.zero_grad(set_to_none=True)
        (error * self.weights[t]).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group['lr'] = self.rate() * group['factor']
        self.optimiser.step()
        self.average.update(self.net, self.step)
        self.step += 1
        self.seen += a.batch
        return error.mean().item()

    @torch.no_grad()
    def check(self) -> tuple[float, float]:
        """Mean squared noise error on unseen pictures: with the net and without it."""
        self.average.copy_to(self.shadow)
        random = torch.Generator().manual_seed(5)
        t = torch.randint(0, 1000, (CHECK,), generator=random)
        noise = torch.randn(CHECK, *self.data.latents.shape[1:], generator=random)
        errors = [[], []]
        for start in range(0, CHECK, 64):
            part = slice(start, start + 64)
            rows = torch.arange(self.data.count + start, self.data.count + start + 64)
            with bf16():
                states = self.text(self.data.ids[rows].long())[0]
                for one, net in zip(errors, (self.shadow, None)):
                    one.append((self.guess(net, rows, t[part], noise[part], states) - noise[part]).square().mean().item())
        return float(np.mean(errors[0])), float(np.mean(errors[1]))

    def sheet(self) -> None:
        """Unseen edges, and what is drawn along them."""
        self.average.copy_to(self.shadow)
        rows = torch.arange(self.data.count, self.data.count + DRAWN)
        lines, captions = self.data.lines(rows), [self.data.captions[row] for row in rows.tolist()]
        pictures = draw(self.unet, self.vae, self.shadow, lines, states_of(self.text, self.tokenizer, captions), self.empty)
        given = (lines.permute(0, 2, 3, 1) * 255).byte().numpy()
        both = np.stack([given, pictures], 1).reshape(-1, SIDE, SIDE, 3)
        labels = [label for caption in captions for label in (caption, '')]
        contact_sheet(both, labels, self.a.work / 'sheets' / f'{self.seen:07d}.png')

    def save(self) -> None:
        state = {'net': self.net.state_dict(), 'optimiser': self.optimiser.state_dict(), 'average': self.average.weights}
        save_state(self.a.work / 'control-state.pt', **state, seen=self.seen, step=self.step)
        self.average.copy_to(self.shadow)
        copy.deepcopy(self.shadow).half().save_pretrained(self.a.work / 'edges')

    def run(self) -> None:
        a = self.a
        self.log.write(pictures=self.data.count, seen=self.seen, parameters=sum(p.numel() for p in self.net.parameters()))
        errors, started = [], time.time()
        stop = Stop()
        while self.seen < a.until and not stop:
            before = self.seen
            errors.append(self.train_step())

            def passed(every: int) -> bool:
                return self.seen // every > before // every

            if self.step % 50 == 0:
                speed = len(errors) * a.batch / (time.time() - started)
                self.log.write(seen=self.seen, step=self.step, error=float(np.mean(errors)), rate=self.rate(), speed=speed)
                errors, started = [], time.time()
            if passed(10_000):
                self.save()
                error, plain = self.check()
                self.log.write(seen=self.seen, check=error, plain=plain)
            if passed(a.sheet_every):
                self.sheet()
        self.save()
        if not stop:
            error, plain = self.check()
            self.log.write(seen=self.seen, check=error, plain=plain)
            self.sheet()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument('--model', type=Path, default=Path(__file__).resolve().parents[2] / 'models' / 'mini')
    arguments.add_argument('--pictures', type=Path, required=True)
    arguments.add_argument('--latents', type=Path, required=True, help="of the pictures, by the model's autoencoder")
    arguments.add_argument('--work', type=Path, required=True)
    arguments.add_argument('--until', type=int, default=50_000, help='samples')
    arguments.add_argument('--shards', type=int, default=1000, help='of pictures to take at most')
    arguments.add_argument('--batch', type=int, default=16)
    arguments.add_argument('--rate', type=float, default=4e-4)
    arguments.add_argument('--sheet-every', type=int, default=20_000)
    arguments.add_argument('--threads', type=int, default=2)
    a = arguments.parse_args()
    torch.set_num_threads(a.threads)
    Trainer(a).run()


if __name__ == '__main__':
    main()
