"""A tiny CLIP with random weights as two ONNX files, and what transformers says with it: python clip.py FOLDER.

The package's evaluation code is tested against it: preprocessing, tokens, both towers, cosine.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
PROMPTS = ['a photo of a cat', 'a dog']


class Tower(torch.nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        made = self.call(x)
        return made if isinstance(made, torch.Tensor) else made.pooler_output


def tokenizer(folder: Path) -> CLIPTokenizer:
    letters = [chr(c) for c in range(ord('a'), ord('z') + 1)]
    vocab = letters + [x + '</w>' for x in letters] + ['ca', 'cat</w>', 'do', 'dog</w>', '<|startoftext|>', '<|endoftext|>']
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'vocab.json').write_text(json.dumps({x: i for i, x in enumerate(vocab)}))
    (folder / 'merges.txt').write_text('#version: 0.2\nc a\nca t</w>\nd o\ndo g</w>\n')
    return CLIPTokenizer(vocab=str(folder / 'vocab.json'), merges=str(folder / 'merges.txt'))


def main(folder: Path) -> None:
    torch.manual_seed(0)
    words = tokenizer(folder / 'tokenizer')
    text = dict(vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=24)
    text |= dict(bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)
    vision = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8, attn_implementation='eager')).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p.requires_grad_(False), std=0.3)
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (32, 32, 3), np.uint8)
    processor = CLIPImageProcessor(size={'shortest_edge': 32}, crop_size=32, image_mean=MEAN, image_std=STD)
    pixels = processor(picture, return_tensors='pt').pixel_values
    ids = words(PROMPTS, padding='max_length', max_length=24, return_tensors='pt').input_ids
    image_tower, text_tower = Tower(model.get_image_features), Tower(model.get_text_features)
    with torch.no_grad():
        a, b = image_tower(pixels), text_tower(ids)
        scores = torch.nn.functional.cosine_similarity(a, b)
    for name, tower, given, called in (('image', image_tower, pixels, 'pixel_values'), ('text', text_tower, ids[:1], 'input_ids')):
        torch.onnx.export(tower, (given,), str(folder / f'clip-{name}.onnx'), input_names=[called], output_names=['embeds'], dynamic_axes={called: {0: 'batch'}, 'embeds': {0: 'batch'}}, opset_version=17, dynamo=False)
    card = dict(kind='clip', image='clip-image.onnx', text='clip-text.onnx', tokenizer='tokenizer', positions=24, size=32, mean=MEAN, std=STD, threshold=0.25)
    (folder / 'clip.json').write_text(json.dumps(card, indent=1) + '\n')
    expected = dict(picture=picture.reshape(-1).tolist(), prompts=PROMPTS, scores=scores.tolist())
    (folder / 'expected.json').write_text(json.dumps(expected) + '\n')
    print(scores)


if __name__ == '__main__':
    main(Path(sys.argv[1]))
