import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ClipTokenizer } from '../../lib/prompt/index.ts'

interface Golden {
  texts: string[]
  folders: Record<
    string,
    { files: Record<string, string> | null; special: Record<'bos' | 'eos' | 'pad' | 'unk', number>; ids: number[][] }
  >
}
const golden = JSON.parse(readFileSync(new URL('goldens/tokenizer.json', import.meta.url), 'utf8')) as Golden

const scratch = mkdtempSync(join(tmpdir(), 'swap-tokenizer-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

let count = 0
function folder(files: Record<string, string | Uint8Array>): string {
  const path = mkdtempSync(join(scratch, `${count++}-`))
  for (const [name, text] of Object.entries(files)) writeFileSync(join(path, name), text)
  return path
}

describe.each(Object.entries(golden.folders))('%s', (name, { files, special, ids }) => {
  let tokenizer: ClipTokenizer
  beforeAll(async () => {
    const path = files ? folder(files) : new URL(`../../${name}`, import.meta.url).pathname
    tokenizer = await ClipTokenizer.open(path, { positions: 77 })
  })

  test('has the special tokens of transformers', () => {
    const { bos, eos, pad, unk } = tokenizer
    expect({ bos, eos, pad, unk }).toEqual(special)
  })

  test.each(golden.texts.map((text, index) => [JSON.stringify(text).slice(0, 60), text, ids[index]!] as const))(
    'splits %s as transformers does',
    (_, text, expected) => {
      expect(tokenizer.tokens(text)).toEqual(expected)
    },
  )
})

const GOOD = golden.folders['vocab and merges']!.files!
const ALONE = golden.folders['tokenizer.json alone']!.files!
const edited = (edit: (file: { model: Record<string, unknown>; added_tokens: unknown }) => void): string => {
  const file = JSON.parse(ALONE['tokenizer.json']!)
  edit(file)
  return JSON.stringify(file)
}

test('the embedded model says the same in both layouts', async () => {
  const file = (name: string): string =>
    readFileSync(new URL(`../../models/mini/tokenizer/${name}`, import.meta.url), 'utf8')
  const older = ['vocab.json', 'merges.txt', 'special_tokens_map.json', 'tokenizer_config.json']
  const path = folder(Object.fromEntries(older.map((name) => [name, file(name)])))
  const tokenizer = await ClipTokenizer.open(path, { positions: 77 })
  const { special, ids } = golden.folders['models/mini/tokenizer']!
  const { bos, eos, pad, unk } = tokenizer
  expect({ bos, eos, pad, unk }).toEqual(special)
  expect(golden.texts.map((text) => tokenizer.tokens(text))).toEqual(ids)
})

test('pads with its own token', async () => {
  const tokenizer = await ClipTokenizer.open(folder(golden.folders['padded with !']!.files!), { positions: 5 })
  expect(tokenizer.padded([7])).toEqual([tokenizer.bos, 7, tokenizer.eos, 0, 0])
})

test.each<[string, string, Record<string, string | Uint8Array>]>([
  ['an empty folder', 'SWAP_TOKENIZER_MISSING', {}],
  ['no merges', 'SWAP_TOKENIZER_MISSING', { 'vocab.json': GOOD['vocab.json']! }],
  ['no vocabulary', 'SWAP_TOKENIZER_MISSING', { 'merges.txt': GOOD['merges.txt']! }],
  ['a vocabulary cut short', 'SWAP_TOKENIZER_FILE', { ...GOOD, 'vocab.json': GOOD['vocab.json']!.slice(0, 99) }],
  ['a vocabulary that is a list', 'SWAP_TOKENIZER_FILE', { ...GOOD, 'vocab.json': '["a"]' }],
  ['an empty vocabulary', 'SWAP_TOKENIZER_FILE', { ...GOOD, 'vocab.json': '{}' }],
  ['an id below zero', 'SWAP_TOKENIZER_FILE', { ...GOOD, 'vocab.json': '{"a":-1}' }],
  ['an id that is a text', 'SWAP_TOKENIZER_FILE', { ...GOOD, 'vocab.json': '{"a":"1"}' }],
  ['one id for two tokens', 'SWAP_TOKENIZER_FILE', { ...GOOD, 'vocab.json': '{"a":1,"b":1}' }],
  ['a merge of three', 'SWAP_TOKENIZER_FILE', { ...GOOD, 'merges.txt': '#version: 0.2\na b c\n' }],
  ['bytes that are not text', 'SWAP_TOKENIZER_FILE', { ...GOOD, 'merges.txt': new Uint8Array([0xff, 0xfe, 0x80]) }],
  ['no special tokens', 'SWAP_TOKENIZER_VOCAB', { ...GOOD, 'vocab.json': '{"a":1}' }],
  ['an unknown padding token', 'SWAP_TOKENIZER_VOCAB', { ...GOOD, 'special_tokens_map.json': '{"pad_token":"[PAD]"}' }],
  ['tokenizer.json of another kind', 'SWAP_TOKENIZER_FILE', { 'tokenizer.json': '[]' }],
  ['tokenizer.json without a model', 'SWAP_TOKENIZER_FILE', { 'tokenizer.json': '{}' }],
  [
    'another model',
    'SWAP_TOKENIZER_UNSUPPORTED',
    { 'tokenizer.json': edited((file) => (file.model.type = 'Unigram')) },
  ],
  [
    'another word end',
    'SWAP_TOKENIZER_UNSUPPORTED',
    { 'tokenizer.json': edited((file) => (file.model.end_of_word_suffix = '')) },
  ],
  ['merges of numbers', 'SWAP_TOKENIZER_FILE', { 'tokenizer.json': edited((file) => (file.model.merges = [[1, 2]])) }],
  ['no merges at all', 'SWAP_TOKENIZER_FILE', { 'tokenizer.json': edited((file) => (file.model.merges = null)) }],
  [
    'an added token without an id',
    'SWAP_TOKENIZER_FILE',
    { 'tokenizer.json': edited((file) => (file.added_tokens = [{ content: 'x' }])) },
  ],
  [
    'added tokens of another kind',
    'SWAP_TOKENIZER_FILE',
    { 'tokenizer.json': edited((file) => (file.added_tokens = 5)) },
  ],
])('%s is %s', async (_, code, files) => {
  await expect(ClipTokenizer.open(folder(files), { positions: 77 })).rejects.toMatchObject({ code })
})

test('a vocabulary larger than the text encoder is refused', async () => {
  const path = folder(GOOD)
  const highest = Object.keys(JSON.parse(GOOD['vocab.json']!)).length - 1
  await expect(ClipTokenizer.open(path, { positions: 77, vocab: highest })).rejects.toMatchObject({
    code: 'SWAP_TOKENIZER_VOCAB',
    message: expect.stringContaining(String(highest)),
  })
  expect(await ClipTokenizer.open(path, { positions: 77, vocab: highest + 1 })).toBeInstanceOf(ClipTokenizer)
})

test('keys like __proto__ are tokens like any other', async () => {
  const vocab = GOOD['vocab.json']!.replace('{', '{"__proto__": 5000, "constructor": 5001, ')
  const tokenizer = await ClipTokenizer.open(folder({ ...GOOD, 'vocab.json': vocab }), { positions: 77 })
  expect(tokenizer.tokens('constructor')).not.toContain(undefined)
  expect(Object.prototype).not.toHaveProperty('5000')
})
