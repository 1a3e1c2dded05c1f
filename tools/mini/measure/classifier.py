"""The classifier of what a picture shows: kind, place, night, style, framing, and the looks of the first person or thing.

It scores prompts: a prompt is obeyed as far as the fields it speaks of are answered as it says.
"""

import argparse

import torch
import torch.nn.functional as F

from backbone import Backbone, Samples, arguments, export, roughen, train
from labels import FIELDS, NAMES, SIZES, UNKNOWN, load_labels
from pictures import load_records

# The second person of a pair is not asked for: the first is the left one only by the order of drawing.
ASKED = [i for i, name in enumerate(NAMES) if not name.startswith('second.')]


LIMITS = (
    'Knows the drawn world only and answers every field whether or not the picture has it: hair of a car means nothing. '
    'Of two people it is asked for nothing but that they are two. Prompts are read word by word: "no hat" asks for a hat.'
)

WITH_PERSON = ['person', 'two people', 'person and animal']
WITH_ANIMAL = ['animal', 'person and animal']
PLACES = {'room': ['room', 'home'], 'sea': ['at sea', 'on the sea']}
LOOKS = {
    'first.beard': {'beard': ['beard', 'bearded'], 'mustache': ['mustache']},
    'first.mouth': {'laugh': ['laughing'], 'surprised': ['surprised'], 'sad': ['sad', 'frowning'], 'smile': ['smiling']},
    'first.eyes': {'sunglasses': ['sunglasses'], 'glasses': ['glasses']},
    'first.old': {'True': ['old']},
    'picture.night': {'True': ['night']},
    'picture.style': {'line drawing': ['line drawing', 'sketch']},
    'picture.framing': {'close': ['close-up', 'portrait'], 'standing': ['standing'], 'sitting': ['sitting']},
}


def words_of(fields: list[dict]) -> list[dict]:
    """What words of a prompt ask for; read by the package's evaluation code."""
    values = {f['name']: f['values'] for f in fields}
    words = []

    def say(field: str, allowed: list[str], *says: str) -> None:
        words.append({'says': list(says), 'field': field, 'values': allowed})

    for scene in values['picture.scene']:
        if scene != 'plain':
            say('picture.scene', [scene], *PLACES.get(scene, [scene]))
    for field, looks in LOOKS.items():
        for value, says in looks.items():
            say(field, [value], *says)
    for noun in ('man', 'woman', 'person'):
        say('picture.kind', WITH_PERSON, noun)
        if noun != 'person':
            say('first.gender', [noun], noun)
    say('picture.kind', ['two people'], 'two people', 'two men', 'two women', 'a man and a woman')
    for hat in values['first.hat'][1:]:
        say('first.hat', [hat], hat)
    say('first.hat', values['first.hat'][1:], 'hat')
    for thing in values['first.holds'][1:]:
        say('first.holds', [thing], thing)
    for hair in ('pigtails', 'mohawk', 'bald', 'buzzcut', 'bob', 'bun', 'high-top'):
        say('first.hair', [hair], hair)
    for hair in ('long', 'curly', 'short'):
        say('first.hair', [hair], f'{hair} hair')
    for color in values['first.hairColor']:
        say('first.hairColor', [color], f'{color} hair', f'{color}-haired')
    for color in values['first.cloth']:
        say('first.cloth', [color], f'{color} shirt')
    for skin in values['first.skin']:
        say('first.skin', [skin], f'{skin}-skinned')
    for thing in values['thing.kind']:
        kinds = WITH_ANIMAL if thing in ('cat', 'dog', 'bear', 'rabbit') else ['object']
        for tint in values['thing.tint'][1:]:
            for field, allowed in (('thing.tint', [tint]), ('thing.kind', [thing]), ('picture.kind', kinds)):
                say(field, allowed, f'{tint} {thing}')
        say('thing.kind', [thing], thing)
        say('picture.kind', kinds, thing)
    return words


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.answer = torch.nn.Linear(Backbone.WIDTHS[3] * 16 // 2, sum(SIZES[i] for i in ASKED))
        self.narrow = torch.nn.Conv2d(Backbone.WIDTHS[3], Backbone.WIDTHS[3] // 2, 1)

    def forward(self, pixels):
        return self.with_features(pixels)[0]

    def with_features(self, pixels):
        """The answers, and the means and maxima of the coarse features: what distances between sets of pictures use."""
        coarse = self.backbone(pixels)[1]
        answers = self.answer(F.relu(self.narrow(coarse)).flatten(1))
        return answers, torch.cat([coarse.mean((2, 3)), coarse.amax((2, 3))], 1)


class Both(torch.nn.Module):
    def __init__(self, net: Classifier):
        super().__init__()
        self.net = net

    def forward(self, pixels):
        return self.net.with_features(pixels)


def main() -> None:
    a = arguments(argparse.ArgumentParser(description=__doc__))
    samples, checks = Samples(a.pictures), Samples(a.check)
    labels, right = (load_labels(folder)[1][:, ASKED] for folder in (a.pictures, a.check))
    sizes = [SIZES[i] for i in ASKED]
    # Under a hat, hair that stands up is drawn as another style.
    hat, hair = (ASKED.index(NAMES.index(f'first.{f}')) for f in ('hat', 'hair'))
    raised = torch.tensor([v in ('mohawk', 'high-top', 'bun', 'curly') for v in FIELDS[ASKED[hair]][2]] + [False])
    for rows in (labels, right):
        rows[(rows[:, hat] > 0) & raised[rows[:, hair].clamp(min=-1)], hair] = UNKNOWN
    # In a picture of two people, the looks of a single one are no fair question.
    for rows in (labels, right):
        pairs = rows[:, 0] == 1
        person = torch.tensor([NAMES[i].startswith('first.') for i in ASKED])
        rows[pairs[:, None] & person[None]] = UNKNOWN
    # What a prompt gives that says nothing of it: colours, the usual framing, the style that the model knows.
    prompted = torch.tensor(
        [
            r['style'] == 'picture' and r['framing'] in ('usual', 'close') and not any('drawing' in p for p in r['people'])
            for r in load_records(a.check)
        ]
    )
    net = Classifier()

    def loss_of(_):
        rows = torch.randint(0, len(samples), (a.batch,))
        answers = net(roughen(samples.pixels(rows))).float().split(sizes, 1)
        losses = [F.cross_entropy(x, t, ignore_index=UNKNOWN) for x, t in zip(answers, labels[rows].T) if (t != UNKNOWN).any()]
        return torch.stack(losses).mean()

    def check(net) -> dict:
        count = min(len(checks), 2000)
        answers = torch.cat([net(checks.pixels(range(i, min(i + 100, count)))) for i in range(0, count, 100)]).split(sizes, 1)
        figures = {}
        for start, among in (('', torch.ones(count, dtype=torch.bool)), ('asPrompted.', prompted[:count])):
            for i, x, t in zip(ASKED, answers, right[:count].T):
                known = (t != UNKNOWN) & among
                if known.any():
                    figures[start + NAMES[i]] = (x.argmax(1) == t)[known].float().mean().item()
        return figures

    train('classifier', a, net, loss_of, check)
    fields = [{'name': NAMES[i], 'values': [str(v) for v in FIELDS[i][2]]} for i in ASKED]
    card = {'kind': 'classifier', 'threshold': 0.5, 'limits': LIMITS, 'fields': fields, 'words': words_of(fields)}
    export('classifier', a, Both(net), ['answers', 'features'], check, card)


if __name__ == '__main__':
    main()
