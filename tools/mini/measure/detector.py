"""The subject detector: where people, animals and objects are, as peaks of a 16x16 map with a box at each peak."""

import argparse

import torch
import torch.nn.functional as F

from backbone import Backbone, Samples, arguments, export, roughen, train
from pictures import load_records

CLASSES = 'person cat dog bear rabbit car chair toy'.split()
SIDE = 16


LIMITS = (
    'Knows the drawn world only; what is held is no subject. Output: for each of 16 x 16 cells of 8 pixels a logit for each '
    'class, then the logarithms of the distances from the cell centre to left, top, right, bottom, in units of 16 pixels.'
)


class Detector(torch.nn.Module):
    """(batch, 8 + 4, 16, 16): a logit for each class, then the logarithms of the distances from the cell's centre to left, top, right, bottom, in units of 16 pixels."""

    def __init__(self):
        super().__init__()
        w = Backbone.WIDTHS
        self.backbone = Backbone()
        self.wide = torch.nn.Conv2d(w[3], w[1], 1)
        self.mix = torch.nn.Conv2d(w[1] * 2, w[1], 3, padding=1)
        self.out = torch.nn.Conv2d(w[1], len(CLASSES) + 4, 1)
        torch.nn.init.constant_(self.out.bias[: len(CLASSES)], -4.0)

    def forward(self, pixels):
        fine, coarse = self.backbone(pixels)
        wide = F.interpolate(self.wide(coarse), size=(SIDE, SIDE), mode='nearest')
        return self.out(F.relu(self.mix(torch.cat([fine, wide], 1))))


def subjects(record: dict) -> list[tuple[int, list[int]]]:
    """Class and box of every subject; what is held is not one."""
    found = [(0, p['slot']) for p in record['people']] + [(CLASSES.index(t['kind']), t['slot']) for t in record['things']]
    return [(c, record['boxes'][slot]) for c, slot in found if record['boxes'][slot]]


def cell_of(box) -> tuple[int, int]:
    return min(SIDE - 1, int((box[0] + box[2]) / 16)), min(SIDE - 1, int((box[1] + box[3]) / 16))


def boxes_of(out: torch.Tensor, threshold: float = 0.3) -> list[list[tuple[int, float, list[float]]]]:
    """Decodes the net's output: cells that are the strongest of their 3x3 neighbourhood over all classes."""
    scores, classes = out[:, : len(CLASSES)].sigmoid().max(1)
    peaks = (scores == F.max_pool2d(scores[:, None], 5, 1, 2)[:, 0]) & (scores > threshold)
    found = [[] for _ in out]
    for b, y, x in peaks.nonzero().tolist():
        d = out[b, len(CLASSES) :, y, x].exp() * 16
        cx, cy = x * 8 + 4, y * 8 + 4
        box = [cx - d[0].item(), cy - d[1].item(), cx + d[2].item(), cy + d[3].item()]
        found[b].append((classes[b, y, x].item(), scores[b, y, x].item(), box))
    return found


def overlap(a, b) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, w) * max(0, h)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def main() -> None:
    a = arguments(argparse.ArgumentParser(description=__doc__))
    samples, checks = Samples(a.pictures), Samples(a.check)
    records, right = load_records(a.pictures), load_records(a.check)
    net = Detector()

    def loss_of(_):
        rows = torch.randint(0, len(samples), (a.batch,))
        out = net(roughen(samples.pixels(rows))).float()
        wanted = torch.zeros(len(rows), len(CLASSES), SIDE, SIDE)
        ignored = torch.zeros(len(rows), SIDE, SIDE, dtype=torch.bool)
        distances, at = [], []
        for b, row in enumerate(rows.tolist()):
            for c, box in subjects(records[row]):
                x, y = cell_of(box)
                ignored[b, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = True
                cx, cy = x * 8 + 4, y * 8 + 4
                distances.append([max(1.0, v) / 16 for v in (cx - box[0], cy - box[1], box[2] - cx, box[3] - cy)])
                at.append((b, c, y, x))
        for b, c, y, x in at:
            wanted[b, c, y, x] = 1
            ignored[b, y, x] = False
        logits = out[:, : len(CLASSES)]
        chance = logits.sigmoid()
        focal = torch.where(wanted > 0, (1 - chance) ** 2, chance**2) * F.binary_cross_entropy_with_logits(logits, wanted, reduction='none')
        loss = (focal * ~ignored[:, None]).sum() / max(1, len(at))
        if at:
            b, _, y, x = torch.tensor(at).T
            loss = loss + (out[b, len(CLASSES) :, y, x] - torch.tensor(distances).log()).abs().mean()
        return loss

    def check(net) -> dict:
        """Share of subjects found with the right class and an overlap of half or more, and share of finds that are right."""
        count, hits, total, finds, overlaps = min(len(checks), 1500), 0, 0, 0, []
        for start in range(0, count, 100):
            rows = range(start, min(start + 100, count))
            for row, found in zip(rows, boxes_of(net(checks.pixels(rows)))):
                finds += len(found)
                for c, box in subjects(right[row]):
                    best = max((overlap(box, f[2]) for f in found if f[0] == c), default=0.0)
                    total += 1
                    hits += best >= 0.5
                    overlaps.append(best)
        return {'found': hits / total, 'right': hits / max(1, finds), 'overlap': sum(overlaps) / total}

    train('detector', a, net, loss_of, check)
    card = {'kind': 'detector', 'limits': LIMITS, 'classes': CLASSES, 'side': SIDE, 'threshold': 0.3}
    export('detector', a, net, ['maps'], check, card)


if __name__ == '__main__':
    main()
