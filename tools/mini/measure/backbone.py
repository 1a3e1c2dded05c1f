"""What the three measuring nets share: a small residual network, blurred and noisy inputs, training and ONNX export."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from nets import Exported  # noqa: E402
from pictures import load_pictures  # noqa: E402
from runtime import CHANNELS_LAST, Log, Stop, bf16, load_state, save_state  # noqa: E402


class Block(torch.nn.Module):
    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.first = torch.nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = torch.nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norms = torch.nn.ModuleList([torch.nn.BatchNorm2d(after), torch.nn.BatchNorm2d(after)])
        self.short = torch.nn.Conv2d(before, after, 1, stride) if (stride, before) != (1, after) else torch.nn.Identity()

    def forward(self, x):
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.short(x) + self.norms[1](self.second(y)))


class Backbone(torch.nn.Module):
    """Pixels in 0..1, (batch, 3, 128, 128), to features of 16x16 (`WIDTHS[1]` channels) and of 4x4 (`WIDTHS[3]`)."""

    WIDTHS = (48, 80, 112, 144)

    def __init__(self):
        super().__init__()
        w = self.WIDTHS
        # Blocks of 4x4 pixels become channels: large maps of few channels are what a CPU is slow at.
        self.stem = torch.nn.Conv2d(48, w[0], 3, 1, 1)
        self.fine = torch.nn.Sequential(Block(w[0], w[1], 2), Block(w[1], w[1], 1))
        self.coarse = torch.nn.Sequential(Block(w[1], w[2], 2), Block(w[2], w[3], 2), Block(w[3], w[3], 1))

    def forward(self, pixels):
        fine = self.fine(F.relu(self.stem(F.pixel_unshuffle(pixels * 2 - 1, 4))))
        return fine, self.coarse(fine)


NOISE = torch.randn(2**22 + 2**20, generator=torch.Generator().manual_seed(1))  # drawing new noise costs as much as the net


def roughen(x: torch.Tensor) -> torch.Tensor:
    """Blur, noise, brightness and small shifts: generated pictures are softer and dirtier than drawn ones."""
    if torch.rand(()) < 0.6:
        factor = float(torch.empty(()).uniform_(0.45, 0.95))
        small = F.interpolate(x, scale_factor=factor, mode='bilinear', antialias=True)
        x = F.interpolate(small, size=x.shape[-2:], mode='bilinear')
    start = int(torch.randint(0, len(NOISE) - x.numel(), ()))
    noise = NOISE[start : start + x.numel()].view(len(x), *x.shape[2:], 3).permute(0, 3, 1, 2)
    x = torch.addcmul(x, torch.rand(len(x), 1, 1, 1) * 0.06, noise)
    return torch.addcmul(0.03 * torch.randn(len(x), 3, 1, 1), x, 1 + 0.1 * torch.randn(len(x), 3, 1, 1)).clamp_(0, 1)


class Samples:
    def __init__(self, folders: list[Path]):
        self.pictures = load_pictures(folders)

    def __len__(self):
        return len(self.pictures)

    def pixels(self, rows) -> torch.Tensor:
        stack = np.stack([self.pictures[int(i)] for i in rows])
        return (torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=CHANNELS_LAST)


def arguments(parser):
    parser.add_argument('--pictures', type=Path, nargs='+', required=True)
    parser.add_argument('--check', type=Path, nargs='+', required=True, help='shards of other seeds, for the accuracy')
    parser.add_argument('--work', type=Path, required=True)
    parser.add_argument('--steps', type=int, default=4000)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--rate', type=float, default=1e-3)
    parser.add_argument('--threads', type=int, default=1)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    a.count = len(load_pictures(a.pictures))
    return a


def train(name: str, a, net: torch.nn.Module, loss_of, check) -> None:
    """`loss_of(step)` gives the loss of one batch, `check(net)` the figures of the card; resumable like every stage."""
    net.to(memory_format=CHANNELS_LAST)
    optimiser = torch.optim.AdamW(net.parameters(), lr=a.rate, weight_decay=0.02, fused=True)
    log = Log(a.work / f'{name}-log.jsonl')
    step = 0
    if state := load_state(a.work / f'{name}-state.pt'):
        net.load_state_dict(state['net'])
        optimiser.load_state_dict(state['optimiser'])
        step = state['step']
    recent = []
    stop = Stop()

    def save() -> None:
        save_state(a.work / f'{name}-state.pt', net=net.state_dict(), optimiser=optimiser.state_dict(), step=step)

    while step < a.steps:
        if stop:
            save()
            raise SystemExit('stopped; the same command goes on from here')
        net.train()
        for group in optimiser.param_groups:
            group['lr'] = a.rate * min(1, (step + 1) / 200) * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * step / a.steps)))
        with bf16():
            loss = loss_of(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        step += 1
        recent.append(loss.item())
        if step % 50 == 0:
            log.write(step=step, loss=float(np.mean(recent)))
            recent = []
        if step % 500 == 0 or step == a.steps:
            net.eval()
            with torch.no_grad():
                figures = check(net)
            log.write(step=step, **figures)
            save()
            (a.work / f'{name}-figures.json').write_text(json.dumps(figures, indent=1))


def halve(path: Path) -> None:
    """Keeps the weights in fp16, with a cast after each: half the file, and the runtime still computes in fp32."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph, casts = model.graph, []
    for weight in list(graph.initializer):
        values = numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < 256:
            continue
        graph.initializer.remove(weight)
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), weight.name + '_half'))
        casts.append(helper.make_node('Cast', [weight.name + '_half'], [weight.name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(casts + nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def export(name: str, a, net: torch.nn.Module, outputs: list[str], check, card: dict) -> None:
    """`name`.onnx with input `pixels` (batch, 3, 128, 128) in 0..1, and `name`.json: what it says, from what, how well."""
    net.eval()
    path = a.work / f'{name}.onnx'
    torch.onnx.export(
        net.to(memory_format=torch.contiguous_format),
        (torch.rand(2, 3, 128, 128),),
        str(path),
        input_names=['pixels'],
        output_names=outputs,
        dynamic_axes={n: {0: 'batch'} for n in ['pixels', *outputs]},
        opset_version=17,
        dynamo=False,
    )
    halve(path)
    exported = Exported(path, threads=a.threads)
    first = lambda made: made[0] if isinstance(made, tuple) else made  # noqa: E731
    with torch.no_grad():
        pixels = torch.rand(4, 3, 128, 128)
        apart = (exported(pixels) - first(net(pixels))).abs().max().item()
    figures = {k: round(v, 4) if isinstance(v, float) else v for k, v in check(exported).items()}
    trained = {'pictures': a.count, 'seen': a.steps * a.batch, 'split': 'all, seeds of its own, blurred and noisy'}
    card = {**card, 'net': path.name, 'size': 128, 'input': 'pixels', 'output': outputs[0], 'trained': trained}
    card |= {'figures': figures, 'fileApartFromNet': round(apart, 5)}
    (a.work / f'{name}.json').write_text(json.dumps(card, indent=1) + '\n')
    print(f'{path}: {path.stat().st_size / 1e6:.2f} MB, {figures}')
