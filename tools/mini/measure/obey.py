"""How often a model's pictures show what the prompts say, by the classifier: by group and by field, with 95 % intervals.

Prompts come from tools/world/prompts.mjs.  A prompt is obeyed if every field that it fixes is answered as it says.
"""

import json
from collections import defaultdict
from pathlib import Path

import torch

from model import Model, drawing, keep, parser
from nets import Judge, share


def main() -> None:
    p = drawing(parser(__doc__))
    p.add_argument('--nets', type=Path, required=True, help='folder of the measuring nets')
    p.add_argument('--prompts', type=Path, required=True)
    p.add_argument('--limit', type=int, default=10_000)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    model, judge = Model(a.model), Judge(a.nets, a.threads)
    prompts = json.loads(a.prompts.read_text())[: a.limit]
    said = judge.said(model.draw([p['prompt'] for p in prompts], a))
    groups, fields = defaultdict(list), defaultdict(list)
    for prompt, answers in zip(prompts, said):
        right = {f: answers[f] == str(v) for f, v in prompt['expect'].items()}
        groups[prompt['group']].append(all(right.values()))
        for f, ok in right.items():
            fields[f].append(ok)
    keep(
        a,
        'obeyed',
        {
            'prompts': len(prompts),
            'steps': a.steps,
            'guidance': a.guidance,
            'groups': {name: share(hits) for name, hits in groups.items()},
            'fields': {name: share(hits) for name, hits in fields.items()},
            'classifier': {f: judge.card['figures'][f'asPrompted.{f}'] for f in fields},
        },
    )


if __name__ == '__main__':
    main()
