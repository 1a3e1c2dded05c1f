"""The identity embedder: two pictures of one person lie close together, whatever the person wears, does, or where.

Learnt by contrast (each batch: several people, several pictures of each) on people of the training split; checked on
people of combinations never seen.  Shirts change within one person, so the shirt is not the person.
"""

import argparse

import torch
import torch.nn.functional as F

from backbone import Backbone, Samples, arguments, export, roughen, train


class Embedder(torch.nn.Module):
    def __init__(self, width: int = 128):
        super().__init__()
        self.backbone = Backbone()
        self.project = torch.nn.Linear(Backbone.WIDTHS[3] * 2, width)

    def forward(self, pixels):
        coarse = self.backbone(pixels)[1]
        return F.normalize(self.project(torch.cat([coarse.mean((2, 3)), coarse.amax((2, 3))], 1)), dim=-1)


def contrast(vectors: torch.Tensor, people: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """Supervised contrastive loss: each picture must find the other pictures of its person."""
    scores = vectors.float() @ vectors.float().T / temperature
    own = torch.eye(len(scores), dtype=torch.bool)
    log = scores.masked_fill(own, -1e9).log_softmax(-1)
    same = (people[:, None] == people[None]) & ~own
    return -((log * same).sum(-1) / same.sum(-1)).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--each', type=int, default=8, help='pictures in a row of one person, as they were generated')
    a = arguments(parser)
    samples, checks = Samples(a.pictures), Samples(a.check)
    net = Embedder()
    per_person = 4

    def loss_of(_):
        people = torch.randperm(len(samples) // a.each)[: a.batch // per_person]
        rows = torch.cat([p * a.each + torch.randperm(a.each)[:per_person] for p in people])
        return contrast(net(roughen(samples.pixels(rows))), people.repeat_interleave(per_person))

    def check() -> dict:
        """Of one picture each of up to 200 unseen people: how often the nearest other picture is of the same person, and the verification error."""
        count = min(len(checks), 200 * a.each)
        vectors = torch.cat([net(checks.pixels(range(i, min(i + 100, count)))) for i in range(0, count, 100)])
        people = torch.arange(count) // a.each
        scores = vectors @ vectors.T - 2 * torch.eye(count)
        same = people[:, None] == people[None]
        pairs = torch.triu(torch.ones_like(same), 1)
        alike, other = scores[same & pairs], scores[~same & pairs]
        edges = torch.linspace(-1, 1, 401)
        missed = (alike[None] < edges[:, None]).float().mean(1)
        taken = torch.stack([(other >= e).float().mean() for e in edges])
        best = (missed - taken).abs().argmin()
        return {
            'nearest': (people[scores.argmax(-1)] == people).float().mean().item(),
            'equal_error': ((missed + taken) / 2)[best].item(),
            'threshold': edges[best].item(),
            'same_mean': alike.mean().item(),
            'other_mean': other.mean().item(),
        }

    train('embedder', a, net, loss_of, check)
    net.eval()
    with torch.no_grad():
        figures = check()
    export('embedder', a, net, ['embedding'], {'kind': 'embedder', 'size': 128, 'width': 128, 'figures': figures})


if __name__ == '__main__':
    main()
