"""Writes test/prompt/goldens/tokenizer.json: what transformers' CLIPTokenizer makes of many texts, from several layouts.

    python tools/reference/tokenizer.py && npx biome check --write test/prompt/goldens

Besides the embedded model's own folder there are small vocabularies made here, in the layouts that diffusers folders
have: vocab.json with merges.txt, a padding token of its own, added tokens, tokenizer.json alone. The golden holds
the folders' files, so that the test can write them.
"""

import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import transformers
from transformers import CLIPTokenizer
from transformers.models.clip.tokenization_clip import CLIPTokenizer as Clip

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "test" / "prompt" / "goldens" / "tokenizer.json"

TEXTS = [
    "",
    " ",
    "a photo of a person",
    "A PHOTO of a Person",
    "a photo of person wearing sunglasses at the beach",
    "  leading,   repeated\t\tand\ntrailing   space \r\n",
    "it's they're we've i'm you'll he'd can't IT'S o'clock 'quoted' ''",
    "photo.of,a;person!!! (very, very good:1.3) [x] {y} <z> a-b_c/d\\e",
    "1 22 333 4k 3.14 1,000 ½ ² Ⅷ ٣ 中3",
    "café naïve façade cafe\u0301 Ångström A\u030angstro\u0308m",
    "ÀÉÎÕÜ ß ẞ ﬁ ﬀ ǅ İstanbul Iı ſ",
    "ΟΔΟΣ ΣΊΣΥΦΟΣ Σ ΑΣ. ας",
    "Привет, мир! Ёлка",
    "日本語の写真 你好，世界 한국어 사진",
    "مرحبا بالعالم שלום नमस्ते สวัสดี",
    "😀 👍🏽 👩‍👩‍👧 🇫🇷 a😀b ❤️ ©®™",
    "zero\u200bwidth no\u00a0break thin\u2009space ideographic\u3000space next\u0085line bom\ufeffhere",
    "control\x00\x01\x07\x1b\x1c\x1f\x7fchars",
    "unit\x1cseparators\x1dhere\x1e\x1f end\x0bvertical\x0cfeed",
    "<|startoftext|> a photo <|endoftext|> of <|endoftext|>",
    "<|STARTOFTEXT|> <|EndOfText|> <| endoftext |>",
    "wow! really?! no!! a!b",
    "a <toy> on a <Toy> and<toy>s <toys>",
    "x" * 200,
    "the the the " * 40,
    "A" + "\u0301" * 5 + "e\u0327\u0301",
    "\u212b \u2126 \ufb01 \u1e9b\u0323",
    "tab\tseparated\u2028line\u2029para",
    "snake_case camelCase kebab-case dots... ellipsis… “quotes” ‘single’s’ «guillemets»",
    "\ud7a3\uac00 \U0001f468\U0001f3ff\u200d\U0001f9b0 \U00010400 \U0001e900",
]

CORPUS = (
    "a photo of a person wearing sunglasses at the beach. the café is open, it's great! привет мир "
    "日本語 the person's dog and the cat. photo photo photo person person 12 24 wow! wow! ας ος "
)


def train(count):
    """Plain BPE over the corpus: the pair that is most frequent becomes a merge, ties by the pair itself."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    alphabet = list(bytes_to_unicode().values())
    mapping = bytes_to_unicode()
    tokenizer = Clip(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[])
    backend = tokenizer.backend_tokenizer
    text = backend.normalizer.normalize_str(CORPUS)
    words = [list(word) for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    words = [word[:-1] + [word[-1] + "</w>"] for word in words if word]
    assert set("".join(sum(words, [])).replace("</w>", "")) <= set(mapping.values())
    merges = []
    for _ in range(count):
        pairs = {}
        for word in words:
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + 1
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [word[i] + word[i + 1]]
                i += 1
    tokens = alphabet + [token + "</w>" for token in alphabet] + ["".join(merge) for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges


def flagged(content):
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def layouts():
    vocab, merges = train(120)
    files = {
        "vocab.json": json.dumps(vocab, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges),
    }
    start, end = "<|startoftext|>", "<|endoftext|>"
    config = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    words = {"bos_token": flagged(start), "eos_token": flagged(end), "unk_token": flagged(end), "pad_token": end}
    yield "vocab and merges", {**files, "tokenizer_config.json": json.dumps({**config, **words, "pad_token": end}),
                               "special_tokens_map.json": json.dumps(words)}
    yield "vocab and merges only", dict(files)
    # 2.x: the two files do not agree on the padding token.
    yield "padded with !", {**files, "tokenizer_config.json": json.dumps({**config, **words}),
                            "special_tokens_map.json": json.dumps({**words, "pad_token": "!"})}
    decoder = {str(vocab["!"]): {**flagged("!"), "normalized": False, "special": True},
               str(vocab[start]): {**flagged(start), "special": True},
               str(vocab[end]): {**flagged(end), "special": True}}
    yield "added_tokens_decoder", {
        **files,
        "tokenizer_config.json": json.dumps({**config, "bos_token": start, "eos_token": end, "unk_token": end,
                                             "pad_token": "!", "added_tokens_decoder": decoder}),
        # Not read beside an added_tokens_decoder.
        "special_tokens_map.json": json.dumps({**words, "pad_token": end}),
    }
    yield "added tokens", {**files, "tokenizer_config.json": json.dumps({**config, **words}),
                           "special_tokens_map.json": json.dumps(words),
                           "added_tokens.json": json.dumps({"<toy>": len(vocab)})}
    # No tokens for bytes above ASCII: whatever needs them is unknown.
    few = [token for token in vocab if token.isascii()]
    short = {token: i for i, token in enumerate(few)}
    kept = [m for m in merges if "".join(m) in short and m[0] in short and m[1] in short]
    yield "unknown bytes", {"vocab.json": json.dumps(short), "merges.txt": "".join(f"{a} {b}\n" for a, b in kept)}
    with tempfile.TemporaryDirectory() as folder:
        Clip(vocab=vocab, merges=[tuple(m) for m in merges], pad_token="!").save_pretrained(folder)
        names = ("tokenizer.json", "tokenizer_config.json")
        yield "tokenizer.json alone", {name: (Path(folder) / name).read_text() for name in names}


def encode(folder):
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    special = {key: getattr(tokenizer, f"{key}_token_id") for key in ("bos", "eos", "pad", "unk")}
    return {"special": special, "ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]}


def main():
    folders = {"models/mini/tokenizer": {"files": None, **encode(ROOT / "models" / "mini" / "tokenizer")}}
    for name, files in layouts():
        with tempfile.TemporaryDirectory() as folder:
            for file, text in files.items():
                (Path(folder) / file).write_text(text, encoding="utf-8")
            folders[name] = {"files": files, **encode(folder)}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    golden = {"transformers": transformers.__version__, "texts": TEXTS, "folders": folders}
    OUT.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
