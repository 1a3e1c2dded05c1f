"""Learns the text encoder before anything is drawn: from its states alone one must be able to tell what is in the picture.

Learnt jointly with the U-Net, a small encoder of this kind hardly learns hair colour: the denoising loss rewards it too
little.  Here each caption's states predict the drawn description three ways:
  * every field looks over all states by an attention of its own, as cross-attention will;
  * every field is read from the end token and from the padding, which fills most of a prompt;
  * the fields of a person are read from the state of that person's noun, so that one token carries an identity.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from labels import FIELDS, NAMES, PERSON, SIZES, UNKNOWN, load_labels, noun_places
from runtime import Log, Stop, bf16, load_state, save_state

WIDTH, LENGTH = 192, 77


def new_text_encoder(tokenizer: CLIPTokenizer, layers: int = 4) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=3,
        max_position_embeddings=LENGTH,
        hidden_act='quick_gelu',
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    config._attn_implementation = 'eager'
    return CLIPTextModel(config)


class Readers(torch.nn.Module):
    """Small linear readers of the description; thrown away after the training."""

    def __init__(self):
        super().__init__()
        self.query = torch.nn.Parameter(torch.randn(len(FIELDS), WIDTH) / 4)
        self.looked = torch.nn.ModuleList(torch.nn.Linear(WIDTH, n) for n in SIZES)
        self.end = torch.nn.ModuleList(torch.nn.Linear(WIDTH, n) for n in SIZES)
        self.noun = torch.nn.ModuleList(torch.nn.Linear(WIDTH, len(v)) for v in PERSON.values())

    def looked_at(self, states):
        scores = torch.einsum('fw,blw->bfl', self.query, states) / math.sqrt(WIDTH)
        return torch.einsum('bfl,blw->bfw', scores.softmax(-1), states)


def loss_of(readers: Readers, states, ends, labels, places):
    """Mean cross-entropy of the three readings; also the right answers of the first reading per field, for the log."""
    rows = torch.arange(len(states))
    looked = readers.looked_at(states)
    padding = states[rows, (ends + 1 + (torch.rand(len(states)) * (states.shape[1] - ends - 1)).long()).clamp(max=states.shape[1] - 1)]
    end = states[rows, ends]
    total, right = 0.0, []
    for f in range(len(FIELDS)):
        target = labels[:, f]
        if (target != UNKNOWN).sum() == 0:
            right.append(float('nan'))
            continue
        answer = readers.looked[f](looked[:, f])
        total = total + F.cross_entropy(answer, target, ignore_index=UNKNOWN)
        total = total + 0.5 * F.cross_entropy(readers.end[f](end), target, ignore_index=UNKNOWN)
        total = total + 0.5 * F.cross_entropy(readers.end[f](padding), target, ignore_index=UNKNOWN)
        right.append((answer.argmax(-1) == target)[target != UNKNOWN].float().mean().item())
    # Nouns of people: slot 0 and 1 name the first and the second person.
    start = NAMES.index('first.gender')
    for k in range(2):
        position, slot = places[:, k, 0], places[:, k, 1]
        chosen = (position >= 0) & (slot < 2)
        if not chosen.any():
            continue
        noun = states[rows[chosen], position[chosen]]
        for f in range(len(PERSON)):
            column = start + f + slot[chosen] * len(PERSON)
            target = labels[rows[chosen], column]
            if (target != UNKNOWN).any():
                total = total + 0.5 * F.cross_entropy(readers.noun[f](noun), target, ignore_index=UNKNOWN)
    return total / len(FIELDS), np.array(right)


@torch.no_grad()
def word_effects(encoder, tokenizer) -> dict[str, list[float]]:
    """How far states move, relative to their length, when one word changes: at the word, at the end, in the padding."""
    pairs = {
        'scene': ('a photo of a person at the beach', 'a photo of a person at the city'),
        'hair colour': ('a woman with red hair at the beach', 'a woman with purple hair at the beach'),
        'hair style': ('a woman with curly hair at the beach', 'a woman with long hair at the beach'),
        'skin': ('a dark-skinned man in the park', 'a pale-skinned man in the park'),
        'glasses': ('a person wearing sunglasses in space', 'a person wearing glasses in space'),
        'hat': ('a person wearing a crown in space', 'a person wearing a hat in space'),
        'beard': ('a man with a beard in the snow', 'a man with a mustache in the snow'),
        'held': ('a woman holding a cup in the snow', 'a woman holding a ball in the snow'),
        'mouth': ('a man laughing in the city', 'a man frowning in the city'),
        'animal': ('a photo of a cat', 'a photo of a dog'),
        'shirt': ('a man wearing a red shirt', 'a man wearing a green shirt'),
        'name': ('a photo of anna', 'a photo of zoe'),
    }
    out = {}
    for what, (a, b) in pairs.items():
        ids = tokenizer([a, b], padding='max_length', max_length=LENGTH, return_tensors='pt').input_ids
        states = encoder(ids)[0].float()
        move = (states[0] - states[1]).norm(dim=-1) / states.norm(dim=-1).mean(0)
        word = (ids[0] != ids[1]).nonzero()[0, 0]
        end = (ids[0] == tokenizer.eos_token_id).nonzero()[0, 0]
        out[what] = [round(move[i].item(), 2) for i in (word, end)] + [round(move[end + 1 :].mean().item(), 2)]
    return out


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument('--pictures', type=Path, nargs='+', required=True)
    arguments.add_argument('--tokenizer', type=Path, required=True)
    arguments.add_argument('--work', type=Path, required=True)
    arguments.add_argument('--steps', type=int, default=3000)
    arguments.add_argument('--batch', type=int, default=96)
    arguments.add_argument('--rate', type=float, default=1e-3)
    arguments.add_argument('--threads', type=int, default=2)
    a = arguments.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(a.tokenizer)
    records, labels = load_labels(a.pictures)
    captions = [r['caption'] for r in records]
    tokens = tokenizer(captions).input_ids
    places = torch.from_numpy(noun_places(tokenizer, records, tokens).astype(np.int64))
    ids = torch.full((len(tokens), LENGTH), tokenizer.eos_token_id)
    for i, t in enumerate(tokens):
        ids[i, : len(t)] = torch.tensor(t)
    ends = torch.tensor([len(t) - 1 for t in tokens])
    count = len(ids) - 1024
    by_length = torch.argsort(ends[:count] + 3 * torch.rand(count))

    encoder, readers = new_text_encoder(tokenizer), Readers()
    weights = list(encoder.parameters()) + list(readers.parameters())
    optimiser = torch.optim.AdamW(weights, lr=a.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    step = 0
    if state := load_state(a.work / 'text-state.pt'):
        encoder.load_state_dict(state['encoder'])
        readers.load_state_dict(state['readers'])
        optimiser.load_state_dict(state['optimiser'])
        step = state['step']
    log = Log(a.work / 'text-log.jsonl')

    def save() -> None:
        save_state(a.work / 'text-state.pt', encoder=encoder.state_dict(), readers=readers.state_dict(), optimiser=optimiser.state_dict(), step=step)
        encoder.save_pretrained(a.work / 'text_encoder')

    def run(rows, length):
        with bf16():
            states = encoder(ids[rows, :length])[0].float()
        return loss_of(readers, states, ends[rows], labels[rows], places[rows])

    stop = Stop()
    while step < a.steps and not stop:
        rate = a.rate * min(1, (step + 1) / 200) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / a.steps)))
        for group in optimiser.param_groups:
            group['lr'] = rate
        # Captions of like length together, and the full length in one batch of eight only: padding costs as much as words.
        start = int(torch.randint(0, count - a.batch, ()))
        rows = by_length[start : start + a.batch]
        length = LENGTH if step % 8 == 0 else min(LENGTH, int(ends[rows].max()) + 4)
        loss, _ = run(rows, length)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        step += 1
        if step % 50 == 0:
            log.write(step=step, loss=loss.item(), rate=rate)
        if step % 250 == 0 or step == a.steps:
            save()
            encoder.eval()
            with torch.no_grad():
                checks = [run(torch.arange(count + i, count + i + 256), LENGTH) for i in range(0, 1024, 256)]
            right = np.nanmean([c[1] for c in checks], 0)
            log.write(step=step, check_loss=float(np.mean([c[0].item() for c in checks])), right={n: round(float(r), 3) for n, r in zip(NAMES, right)}, effects=word_effects(encoder, tokenizer))
            encoder.train()
    save()


if __name__ == '__main__':
    main()
