"""Makes the tokenizer in CLIP's file format: byte-pair encoding learnt on the captions, every word of the world one token."""

import argparse
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from pictures import load_records

START, END = '<|startoftext|>', '<|endoftext|>'
CLASS_WORDS = 'person man woman people men women cat dog bear rabbit car chair toy'.split()
# Words of prompts and templates that the captions may lack: they have no learnt meaning, but must not fall into pieces.
MORE_WORDS = (
    'a an the this my one of in on at with and to is picture photo image painting drawing sketch rendering rendition '
    'close up cropped clean dirty dark bright cool weird small large nice good depiction portrait face hat hair shirt '
    'boy girl wearing holding sitting standing playing next background night style * # $'
).split()
SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def learn_merges(captions: list[str]) -> list[str]:
    bpe = Tokenizer(models.BPE(end_of_word_suffix='</w>', unk_token=END))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r'\s+'), ' '), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), 'removed', invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        initial_alphabet=alphabet,
        end_of_word_suffix='</w>',
        special_tokens=[START, END],
        min_frequency=5,
        show_progress=False,
    )
    bpe.train_from_iterator(captions + [' '.join(CLASS_WORDS + MORE_WORDS)] * 50, trainer)
    return [m if isinstance(m, str) else ' '.join(m) for m in json.loads(bpe.to_str())['model']['merges']]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument('--pictures', type=Path, nargs='+', required=True)
    arguments.add_argument('--out', type=Path, required=True)
    a = arguments.parse_args()
    captions = [r['caption'] for r in load_records(a.pictures)]
    merges = learn_merges(captions)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary: dict[str, int] = {}
    for token in letters + [c + '</w>' for c in letters] + [m.replace(' ', '') for m in merges] + [START, END]:
        vocabulary.setdefault(token, len(vocabulary))

    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / 'vocab.json').write_text(json.dumps(vocabulary, ensure_ascii=False))
    (a.out / 'merges.txt').write_text('#version: 0.2\n' + '\n'.join(merges) + '\n')
    special = {'bos_token': START, 'eos_token': END, 'pad_token': END, 'unk_token': END}
    (a.out / 'special_tokens_map.json').write_text(json.dumps(special))
    settings = {'tokenizer_class': 'CLIPTokenizer', 'model_max_length': 77, 'do_lower_case': True, 'add_prefix_space': False, 'errors': 'replace'}
    (a.out / 'tokenizer_config.json').write_text(json.dumps(settings | special))

    # One of an earlier run would be read before the two files above.
    (a.out / 'tokenizer.json').unlink(missing_ok=True)
    tokenizer = CLIPTokenizer.from_pretrained(a.out)
    tokenizer.save_pretrained(a.out)  # adds tokenizer.json
    words = {w for c in captions for w in c.replace('-', ' ').split()}
    broken = [w for w in sorted(words | set(CLASS_WORDS)) if len(tokenizer.tokenize(w)) != 1]
    if broken:
        raise SystemExit(f'not single tokens: {broken}')
    lengths = [len(i) for i in tokenizer(captions).input_ids]
    print(f'{len(vocabulary)} entries, {len(words)} words, captions of up to {max(lengths)} tokens')


if __name__ == '__main__':
    main()
