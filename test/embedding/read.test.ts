/** Other programs' Textual Inversion files as subjects. The files are written by tools/reference/embeddings.py. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { SwapError } from '../../lib/errors.ts'
import { readModel } from '../../lib/model/index.ts'
import { writeSafetensors } from '../../lib/model/safetensors.ts'
import type { NativeTensor } from '../../lib/native.ts'
import { packageRoot } from '../../lib/paths.ts'
import { encodePrompt } from '../../lib/prompt/index.ts'
import { Subject } from '../../lib/subject.ts'
import { temporary } from '../libtorch/fixtures.ts'
import { archive, global, named, type Piece, pickle, tensor, text } from '../pickle/kit.ts'

const golden = (name: string): string => join(packageRoot(), 'test', 'pickle', 'goldens', name)
const rows = (start: number, count: number, width = 6): Float32Array =>
  Float32Array.from({ length: count * width }, (_, k) => start + Math.floor(k / width) + (k % width) / 64)

describe('a file of', () => {
  it.each<[string, string, string, Float32Array[]]>([
    ['diffusers, one vector', 'diffusers_one.safetensors', 'cat-toy', [rows(1, 1)]],
    ['diffusers, three vectors in half precision', 'diffusers_three.safetensors', 'cat-toy', [rows(2, 3)]],
    ['diffusers, pickled', 'diffusers.bin', 'cat-toy', [rows(3, 1)]],
    ['AUTOMATIC1111', 'a1111.pt', 'my-cat', [rows(4, 2)]],
    ['the first Textual Inversion code', 'first.pt', 'first', [rows(5, 1)]],
    ['kohya, in bfloat16', 'kohya.safetensors', 'kohya', [rows(2, 2)]],
    ['SDXL, a pair', 'sdxl.safetensors', 'sdxl', [rows(7, 2), rows(8, 2, 10)]],
    ['OneTrainer', 'onetrainer.safetensors', 'onetrainer', [rows(9, 2)]],
  ])('%s', async (_, file, name, vectors) => {
    const subject = await Subject.load(golden(file))
    expect(subject.vectors).toEqual({
      stages: 1,
      tokens: vectors[0]!.length / 6,
      k: vectors,
      v: vectors,
      inPooled: true,
    })
    expect(subject).toMatchObject({ name, classWord: undefined, widths: vectors.length === 2 ? [6, 10] : [6] })
    const bytes = await Subject.load(readFileSync(golden(file)))
    expect(bytes.vectors).toEqual(subject.vectors)
  })

  it('AUTOMATIC1111 says how it was trained', async () => {
    const { metadata } = await Subject.load(golden('a1111.pt'))
    expect(metadata).toMatchObject({ steps: 999, model: 'v1-5-pruned-emaonly', conditioning: 'shared' })
  })

  it('any of them stays what it is when it is saved as a subject', async () => {
    const subject = await Subject.load(golden('sdxl.safetensors'))
    const path = join(temporary(), 'a.safetensors')
    await subject.save(path)
    const again = await Subject.load(path)
    expect(again.vectors).toEqual(subject.vectors)
    expect(again.toJSON()).toEqual(subject.toJSON())
  })
})

it('stands in a prompt with as many positions as it has vectors, and with no word that ends a text', async () => {
  const { tokenizers } = await readModel('mini')
  const { name, classWord, tokens } = await Subject.load(golden('diffusers_three.safetensors'))
  const [tokenizer] = tokenizers as [(typeof tokenizers)[0]]
  const { ids, slots } = encodePrompt(tokenizers, 'a photo of <cat-toy>, a house', [{ name, classWord, tokens }])
  const { ids: word } = encodePrompt(tokenizers, 'a photo of x x x, a house', [])
  expect(ids).toEqual(word)
  expect(slots).toEqual([{ subject: 0, position: 1 + tokenizer.tokens('a photo of').length }])
  const standing = ids[0]!.slice(slots[0]!.position, slots[0]!.position + 3)
  for (const special of [tokenizer.bos, tokenizer.eos, tokenizer.pad]) expect(standing).not.toContain(special)
})

const params = (...pieces: Piece[]): Buffer => archive(pickle('}', text('string_to_param'), '}', ...pieces, 's'))
const one = (name: string, shape: number[], value = 1): NativeTensor => ({
  name,
  shape,
  data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(value),
})
const safetensors = (...tensors: NativeTensor[]): Uint8Array => writeSafetensors(tensors)

describe('what is none, or cannot be used', () => {
  it.each<[string, Uint8Array, string, string]>([
    [
      'vectors behind the text encoder',
      readFileSync(golden('onetrainer_out.safetensors')),
      'SWAP_SUBJECT_EMBEDDING',
      'behind the text encoder',
    ],
    [
      'several embeddings',
      safetensors(one('<a>', [1, 6]), one('<b>', [1, 6])),
      'SWAP_SUBJECT_EMBEDDING',
      '2 embeddings, "<a>", "<b>"',
    ],
    [
      'a pair of unlike lengths',
      safetensors(one('clip_l', [2, 6]), one('clip_g', [3, 6])),
      'SWAP_SUBJECT_EMBEDDING',
      '2 vectors',
    ],
    ['NaN', safetensors(one('<a>', [1, 6], Number.NaN)), 'SWAP_SUBJECT_EMBEDDING', 'NaN'],
    [
      'infinity in half of a pair',
      safetensors(one('clip_l', [1, 6]), one('clip_g', [1, 6], Number.POSITIVE_INFINITY)),
      'SWAP_SUBJECT_EMBEDDING',
      'Infinity',
    ],
    ['76 vectors', safetensors(one('<a>', [76, 6])), 'SWAP_SUBJECT_INVALID', 'sefi.k'],
    ['no vectors', safetensors(one('<a>', [0, 6])), 'SWAP_SUBJECT_INVALID', 'sefi.k'],
    ['three dimensions', safetensors(one('<a>', [1, 1, 6])), 'SWAP_SUBJECT_INVALID', 'sefi.k'],
    [
      'a LoRA',
      safetensors(
        one('lora_unet_a.lora_down.weight', [4, 6]),
        one('lora_unet_a.lora_up.weight', [6, 4]),
        one('lora_unet_a.alpha', []),
      ),
      'SWAP_SUBJECT_INVALID',
      'sefi.k',
    ],
    [
      'a pickle that runs something',
      archive(pickle(global('os', 'system'), '(', text('true'), 't', 'R')),
      'SWAP_FILE_PICKLE',
      'os.system',
    ],
    [
      'a pickle that runs something beside the vectors',
      params(text('*'), ...tensor(), 's', 's', text('x'), global('os', 'getcwd'), ')', 'R'),
      'SWAP_FILE_PICKLE',
      'os.getcwd',
    ],
    ['a pickle that holds a text', archive(pickle(text('hello'))), 'SWAP_SUBJECT_INVALID', 'no embedding'],
    ['a pickle without tensors', params(text('*'), text('hello'), 's'), 'SWAP_SUBJECT_INVALID', 'no embedding'],
    [
      'a pickle with whole numbers',
      archive(named(...tensor({ storage: 'LongStorage', count: 3, shape: [1, 3], strides: [3, 1] }))),
      'SWAP_SUBJECT_EMBEDDING',
      'I64',
    ],
    [
      'a pickle with two embeddings',
      params(text('*'), ...tensor(), 's', text('+'), ...tensor(), 's'),
      'SWAP_SUBJECT_EMBEDDING',
      '2 embeddings',
    ],
    ['an old pickle', readFileSync(golden('legacy.pt')), 'SWAP_FILE_PICKLE_LEGACY', 'without an archive'],
    ['a zip of pictures', Buffer.from('PK\x03\x04 and more', 'latin1'), 'SWAP_FILE_PICKLE_DAMAGED', 'archive'],
  ])('%s', async (_, bytes, code, part) => {
    const error = await Subject.load(bytes).catch((raised: unknown) => raised)
    expect(error).toBeInstanceOf(SwapError)
    expect(error).toMatchObject({ code, message: expect.stringContaining(part) })
  })

  it('is called by its path', async () => {
    const path = join(temporary(), 'two.safetensors')
    writeFileSync(path, safetensors(one('<a>', [1, 6]), one('<b>', [1, 6])))
    await expect(Subject.load(path)).rejects.toThrow(path)
  })
})

it('a name that cannot stand in a prompt gives way to the file, and that to "subject"', async () => {
  const folder = temporary()
  const load = async (file: string, token: string) => {
    writeFileSync(join(folder, file), safetensors(one(token, [1, 6])))
    return (await Subject.load(join(folder, file))).name
  }
  expect(await load('a.safetensors', '<my cat>')).toBe('my-cat')
  expect(await load('fluffy cat.v2.safetensors', '><script>')).toBe('fluffy-cat-v2')
  expect(await load('1.safetensors', '\u001b[2J')).toBe('subject')
  expect((await Subject.load(safetensors(one('emb_params', [1, 6])))).name).toBe('data')
})
