"""The identity embedder: two pictures of one person lie close together, whatever the person wears, does, or where.

Learnt by contrast (each batch: several people, several pictures of each) on people of the training split; checked on
people of combinations never seen.  Shirts change within one person, so the shirt is not the person.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

from backbone import Backbone, Samples, arguments, export, roughen, train
from pictures import load_records


LIMITS = (
    'Knows the drawn world only. It looks at the whole picture, one person in it; hats and sunglasses hide what it looks '
    'at. Two pictures of strangers who are drawn alike lie close.'
)


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


def looks(folders) -> list[tuple]:
    people = [r['people'][0] for r in load_records(folders)]
    return [tuple(p[k] for k in ('gender', 'hair', 'hairColor', 'skin', 'beard', 'old')) for p in people]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--each', type=int, default=8, help='pictures in a row of one person, as they were generated')
    parser.add_argument('--inked', type=Path, nargs='+', required=True, help='shards of the held-out style')
    a = arguments(parser)
    samples, checks, inked = Samples(a.pictures), Samples(a.check), Samples(a.inked)
    unseen_looks, inked_looks = looks(a.check), looks(a.inked)
    net = Embedder()
    per_person = 4

    def loss_of(_):
        people = torch.randperm(len(samples) // a.each)[: a.batch // per_person]
        rows = torch.cat([p * a.each + torch.randperm(a.each)[:per_person] for p in people])
        return contrast(net(roughen(samples.pixels(rows))), people.repeat_interleave(per_person))

    def check_on(net, checks, looks) -> dict:
        """
        Up to 200 unseen people: how often the picture nearest to another one is of the same person, and of a person of the
        same looks (many share hair, colours and beard, and differ by a shade or the nose); the error of telling pictures
        of one person from pictures of people of other looks.
        """
        count = min(len(checks), 200 * a.each)
        vectors = torch.cat([net(checks.pixels(range(i, min(i + 100, count)))) for i in range(0, count, 100)])
        people = torch.arange(count) // a.each
        number = {look: k for k, look in enumerate(dict.fromkeys(looks))}
        kinds = torch.tensor([number[look] for look in looks[:count]])
        scores = vectors @ vectors.T - 2 * torch.eye(count)
        same, alike = people[:, None] == people[None], kinds[:, None] == kinds[None]
        pairs = torch.triu(torch.ones_like(same), 1)
        own, other = scores[same & pairs], scores[~alike & pairs]
        edges = torch.linspace(-1, 1, 401)
        missed = (own[None] < edges[:, None]).float().mean(1)
        taken = torch.stack([(other >= e).float().mean() for e in edges])
        best = (missed - taken).abs().argmin()
        nearest = scores.argmax(-1)
        return {
            'people': count // a.each,
            'looks': len(kinds.unique()),
            'nearestIsSamePerson': (people[nearest] == people).float().mean().item(),
            'nearestIsAlike': (kinds[nearest] == kinds).float().mean().item(),
            'equalError': ((missed + taken) / 2)[best].item(),
            'threshold': edges[best].item(),
            'samePerson': own.mean().item(),
            'otherLooks': other.mean().item(),
        }

    def check(net) -> dict:
        """On people of unseen combinations, and on people of the style that the model was never shown."""
        figures = {'unseen': check_on(net, checks, unseen_looks), 'inked': check_on(net, inked, inked_looks)}
        return {f'{who}.{name}': value for who, found in figures.items() for name, value in found.items()}

    train('embedder', a, net, loss_of, check)
    with torch.no_grad():
        figures = check(net.eval())
    card = {'kind': 'identity', 'threshold': round(figures['unseen.threshold'], 3), 'limits': LIMITS, 'width': 128}
    export('identity', a, net, ['embedding'], check, card)


if __name__ == '__main__':
    main()
