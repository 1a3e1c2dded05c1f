"""The classifier of what a picture shows: kind, place, night, style, framing, and the looks of the first person or thing.

It scores prompts: a prompt is obeyed as far as the fields it speaks of are answered as it says.
"""

import argparse

import torch
import torch.nn.functional as F

from backbone import Backbone, Samples, arguments, export, roughen, train
from labels import FIELDS, NAMES, SIZES, UNKNOWN, load_labels

# The second person of a pair is not asked for: the first is the left one only by the order of drawing.
ASKED = [i for i, name in enumerate(NAMES) if not name.startswith('second.')]


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.answer = torch.nn.Linear(Backbone.WIDTHS[3] * 16 // 2, sum(SIZES[i] for i in ASKED))
        self.narrow = torch.nn.Conv2d(Backbone.WIDTHS[3], Backbone.WIDTHS[3] // 2, 1)

    def forward(self, pixels):
        return self.answer(F.relu(self.narrow(self.backbone(pixels)[1])).flatten(1))


def main() -> None:
    a = arguments(argparse.ArgumentParser(description=__doc__))
    samples, checks = Samples(a.pictures), Samples(a.check)
    labels, right = (load_labels(folder)[1][:, ASKED] for folder in (a.pictures, a.check))
    sizes = [SIZES[i] for i in ASKED]
    # In a picture of two people, the looks of a single one are no fair question.
    for rows in (labels, right):
        pairs = rows[:, 0] == 1
        person = torch.tensor([NAMES[i].startswith('first.') for i in ASKED])
        rows[pairs[:, None] & person[None]] = UNKNOWN
    net = Classifier()

    def loss_of(_):
        rows = torch.randint(0, len(samples), (a.batch,))
        answers = net(roughen(samples.pixels(rows))).float().split(sizes, 1)
        losses = [F.cross_entropy(x, t, ignore_index=UNKNOWN) for x, t in zip(answers, labels[rows].T) if (t != UNKNOWN).any()]
        return torch.stack(losses).mean()

    def check() -> dict:
        count = min(len(checks), 2000)
        answers = torch.cat([net(checks.pixels(range(i, min(i + 100, count)))) for i in range(0, count, 100)]).split(sizes, 1)
        figures = {}
        for i, x, t in zip(ASKED, answers, right[:count].T):
            known = t != UNKNOWN
            figures[NAMES[i]] = (x.argmax(1) == t)[known].float().mean().item()
        return figures

    train('classifier', a, net, loss_of, check)
    net.eval()
    with torch.no_grad():
        figures = check()
    fields = [{'name': NAMES[i], 'values': [str(v) for v in FIELDS[i][2]]} for i in ASKED]
    export('classifier', a, net, ['answers'], {'kind': 'classifier', 'size': 128, 'fields': fields, 'figures': figures})


if __name__ == '__main__':
    main()
