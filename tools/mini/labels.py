"""The drawn description of a picture as class numbers: what the text encoder learns to say from the words."""

import numpy as np
import torch

from pictures import load_records

UNKNOWN = -100  # cross-entropy ignores it

PICTURE = {
    'kind': ['person', 'two people', 'person and animal', 'animal', 'object', 'place'],
    'scene': 'plain beach forest city mountains park space snow desert room garage sea sunset'.split(),
    'night': [False, True],
    'style': ['picture', 'line drawing'],
    'framing': ['usual', 'close', 'standing', 'sitting'],
    'plain': 'white gray blue green pink yellow'.split(),
}
PERSON = {
    'gender': ['woman', 'man'],
    'hair': 'long bob pigtails curly bun short buzzcut bald mohawk high-top'.split(),
    'hairColor': 'black brown blonde red white blue green purple'.split(),
    'skin': 'pale light tan brown dark'.split(),
    'beard': [None, 'beard', 'mustache'],
    'old': [False, True],
    'cloth': 'red blue green yellow pink purple white black'.split(),
    'eyes': ['open', 'sunglasses', 'glasses'],
    'mouth': ['smile', 'laugh', 'surprised', 'sad'],
    'hat': [None, 'top hat', 'crown', 'party hat'],
    'holds': [None, 'cup', 'umbrella', 'guitar', 'ball', 'balloon', 'flower'],
}
THING = {'kind': 'cat dog bear rabbit car chair toy'.split(), 'tint': [None, 'white', 'black', 'blue', 'pink', 'green', 'red']}

# Fields of one picture in a fixed order: the picture, the first and the second person, the thing.
FIELDS = (
    [('picture', k, v) for k, v in PICTURE.items()]
    + [('first', k, v) for k, v in PERSON.items()]
    + [('second', k, v) for k, v in PERSON.items()]
    + [('thing', k, v) for k, v in THING.items()]
)
NAMES = [f'{part}.{key}' for part, key, _ in FIELDS]
SIZES = [len(values) for _, _, values in FIELDS]
PERSON_FIELDS = list(PERSON)


def person_row(person: dict | None) -> list[int]:
    if person is None:
        return [UNKNOWN] * len(PERSON)
    # People of the held-out style have hair that has no name here.
    row = [values.index(person[key]) if person[key] in values else UNKNOWN for key, values in PERSON.items()]
    if person['hair'] in ('bald', 'buzzcut', 'shaved') and person['beard'] is None:
        row[PERSON_FIELDS.index('hairColor')] = UNKNOWN
    return row


def label_row(record: dict) -> list[int]:
    picture = [values.index(record[key]) for key, values in PICTURE.items()]
    if record['scene'] != 'plain':
        picture[list(PICTURE).index('plain')] = UNKNOWN
    people = record['people'] + [None, None]
    thing = record['things'][0] if record['things'] else None
    things = [values.index(thing[key]) for key, values in THING.items()] if thing else [UNKNOWN] * len(THING)
    return picture + person_row(people[0]) + person_row(people[1]) + things


def load_labels(folders) -> tuple[list[dict], torch.Tensor]:
    records = load_records(folders)
    return records, torch.from_numpy(np.array([label_row(r) for r in records], np.int64))


def noun_places(tokenizer, records: list[dict], ids: list[list[int]], limit: int = 4) -> np.ndarray:
    """For each caption up to `limit` pairs (token position, mask slot) of its nouns, in the order of the text; -1 for none."""
    places = np.full((len(records), limit, 2), -1, np.int16)
    for row, (record, tokens) in enumerate(zip(records, ids)):
        start = 0
        for k, (word, slot) in enumerate(record['words'][:limit]):
            token = tokenizer.convert_tokens_to_ids(word + '</w>')
            if token in tokens[start:]:
                start = tokens.index(token, start) + 1
                places[row, k] = start - 1, slot
    return places
