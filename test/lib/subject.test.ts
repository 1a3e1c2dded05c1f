import { mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { SwapError } from '../../lib/errors.ts'
import { readSafetensors, writeSafetensors } from '../../lib/model/safetensors.ts'
import type { NativeTensor } from '../../lib/native.ts'
import { Subject } from '../../lib/subject.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'swap-subject-'))
})
afterEach(async () => {
  await rm(folder, { recursive: true, force: true })
})

const ramp = (length: number, scale: number) => Float32Array.from({ length }, (_, index) => (index + 1) * scale)

const metadata = {
  model: 'mini',
  fingerprint: 'ab12',
  template: 'a photo of a {}',
  steps: 600,
  learningRate: 1e-4,
  seed: 7,
  attentionWeight: 0.003,
  conditioning: 'split' as const,
}

const parts = () => ({
  name: 'alice',
  classWord: 'person',
  vectors: { stages: 5, tokens: 2, k: [ramp(30, 0.1)], v: [ramp(30, -0.1)] },
  metadata,
})
const alice = new Subject(parts())

const tensor = (name: string, shape: number[], data?: Float32Array): NativeTensor => ({
  name,
  shape,
  data:
    data ??
    ramp(
      shape.reduce((a, b) => a * b, 1),
      1,
    ),
})
const words = { format: 'swap-subject', version: '1', name: 'bob', class: 'dog' }
const file = (tensors: NativeTensor[], strings: Record<string, string> = words) => writeSafetensors(tensors, strings)
const pair = (shape: number[]) => [tensor('sefi.k', shape), tensor('sefi.v', shape)]

describe('round trip', () => {
  test('through a file, with every number and all metadata', async () => {
    const path = join(folder, 'alice.safetensors')
    await alice.save(path)
    const again = await Subject.load(path)
    expect(again).toMatchObject({ name: 'alice', classWord: 'person', stages: 5, tokens: 2, metadata, widths: [3] })
    expect(again.vectors).toEqual(alice.vectors)
    expect(await readdir(folder)).toEqual(['alice.safetensors'])
  })

  test('through a buffer, to the same bytes', async () => {
    const bytes = alice.toBuffer()
    expect((await Subject.load(bytes)).toBuffer().equals(bytes)).toBe(true)
    expect((await Subject.load(new Uint8Array(bytes))).name).toBe('alice')
  })

  test('the file has the published names and shapes', () => {
    const { tensors } = readSafetensors(alice.toBuffer())
    expect(tensors.map(({ name, shape }) => [name, shape])).toEqual([
      ['sefi.k', [5, 2, 3]],
      ['sefi.v', [5, 2, 3]],
    ])
  })

  test('of two text encoders', async () => {
    const both = new Subject({
      name: 'xl',
      classWord: 'cat',
      vectors: { stages: 1, tokens: 1, k: [ramp(2, 1), ramp(4, 2)], v: [ramp(2, 3), ramp(4, 4)] },
      metadata: {},
    })
    const again = await Subject.load(both.toBuffer())
    expect(again.vectors).toEqual(both.vectors)
    expect(again.widths).toEqual([2, 4])
    expect(readSafetensors(both.toBuffer()).tensors.map(({ name }) => name)).toEqual([
      'sefi.k',
      'sefi.k_g',
      'sefi.v',
      'sefi.v_g',
    ])
  })

  test('with the longest names of a model and of LoRA that there are', async () => {
    const long = (letter: string, length: number) => letter.repeat(length)
    const model = `${long('o', 96)}/${long('n', 96)}@${long('r', 200)}`
    const loras = Array.from({ length: 16 }, (_, k) => `${k}${long('l', 250)}.pt:-1.2345678901234567`).join(' ')
    const saved = new Subject({ ...parts(), metadata: { ...metadata, model, loras, template: long('{', 1000) } })
    expect((await Subject.load(saved.toBuffer())).metadata).toEqual(saved.metadata)
  })

  test('whatever the texts are: what a file cannot have is cut off, or a space', async () => {
    const texts = { model: 'a\nb'.padEnd(9000, '\u{1f600}'), template: 'a {}\u009b', loras: 'x'.repeat(90_000) }
    const saved = new Subject({ ...parts(), classWord: 'old\tman', metadata: texts })
    const again = await Subject.load(saved.toBuffer())
    expect(again.classWord).toBe('old man')
    expect(again.metadata).toMatchObject({ model: expect.stringMatching(/^a b/), template: 'a {} ' })
    expect(again.metadata.loras).toMatch(/^x{8000}/)
    expect(again.toBuffer()).toEqual(saved.toBuffer())
  })

  test('a file of another program needs only a name and a class', async () => {
    const bob = await Subject.load(file(pair([1, 1, 2]), { name: 'bob', class: 'dog' }))
    expect(bob).toMatchObject({ name: 'bob', classWord: 'dog', stages: 1 })
    expect(Object.values(bob.metadata).filter((value) => value !== undefined)).toEqual([])
  })
})

test('metadata cannot be changed, and nothing big is printed', () => {
  expect(() => Object.assign(alice.metadata, { steps: 1 })).toThrow(TypeError)
  expect(JSON.parse(JSON.stringify(alice))).toEqual({
    name: 'alice',
    classWord: 'person',
    stages: 5,
    tokens: 2,
    widths: [3],
    metadata,
  })
})

describe('a file that is no subject: SWAP_SUBJECT_INVALID', () => {
  const withValue = (value: number) => [tensor('sefi.k', [1, 1, 2], new Float32Array([1, value])), pair([1, 1, 2])[1]!]
  const strings = (change: Record<string, string>) => file(pair([1, 1, 2]), { ...words, ...change })
  test.each<[string, Uint8Array, string]>([
    ['empty', new Uint8Array(0), '0 bytes'],
    ['a picture', Buffer.from('\x89PNG\r\n\x1a\n0123456789', 'latin1'), 'header'],
    ['text', Buffer.from('this is not a subject at all'), 'header'],
    ['cut short', alice.toBuffer().subarray(0, -4), 'ends at byte'],
    ['cut in the header', alice.toBuffer().subarray(0, 40), 'header takes'],
    ['no tensors', file([]), 'no tensor "sefi.k"'],
    ['no V', file([tensor('sefi.k', [1, 1, 2])]), 'no tensor "sefi.v"'],
    ['no K', file([tensor('sefi.v', [1, 1, 2])]), 'no tensor "sefi.k"'],
    ['half of a second encoder', file([...pair([1, 1, 2]), tensor('sefi.v_g', [1, 1, 2])]), 'no tensor "sefi.k_g"'],
    ['another kind of file', file([tensor('unet.weight', [2, 2])]), 'no tensor "sefi.k"'],
    ['two dimensions', file(pair([5, 768])), 'shape [5,768]'],
    ['11 stages', file(pair([11, 1, 2])), '11 stages'],
    ['no stages', file(pair([0, 1, 2])), '0 stages'],
    ['no tokens', file(pair([1, 0, 2])), '0 tokens'],
    ['too many tokens', file(pair([1, 76, 2])), '76 tokens'],
    ['no width', file(pair([1, 1, 0])), 'shape [1,1,0]'],
    ['K and V of other widths', file([tensor('sefi.k', [1, 1, 2]), tensor('sefi.v', [1, 1, 3])]), '"sefi.v" [1,1,3]'],
    ['K and V of other stages', file([tensor('sefi.k', [1, 1, 2]), tensor('sefi.v', [2, 1, 2])]), 'not [1, 1, width]'],
    ['NaN', file(withValue(Number.NaN)), 'the value NaN at 1'],
    ['infinity', file(withValue(Number.NEGATIVE_INFINITY)), 'the value -Infinity at 1'],
    ['no metadata', file(pair([1, 1, 2]), {}), 'the name left out'],
    ['no class', file(pair([1, 1, 2]), { name: 'bob' }), 'no class word'],
    ['a name that breaks prompts', strings({ name: 'a> <b' }), 'the name "a> <b"'],
    ['a name of 5000 letters', strings({ name: 'x'.repeat(5000) }), 'xxx…"'],
    ['__proto__ as a name', strings({ name: '__proto__' }), 'the name "__proto__"'],
    ['a class that writes on the terminal', strings({ class: '\u001b[2Jdog' }), 'the class "\\u001b[2Jdog"'],
    ['a class of 65 letters', strings({ class: 'x'.repeat(65) }), 'the class'],
    ['steps that are no number', strings({ steps: 'many' }), 'the steps "many"'],
    ['steps that are empty', strings({ steps: '' }), 'the steps ""'],
    ['an endless seed', strings({ seed: '1e999' }), 'the seed "1e999"'],
    ['an unknown conditioning', strings({ conditioning: 'both' }), 'the conditioning "both"'],
    ['a later version', strings({ version: '2' }), 'the version "2"'],
  ])('%s', async (_, bytes, part) => {
    const error = await Subject.load(bytes).catch((e: unknown) => e)
    expect(error).toBeInstanceOf(SwapError)
    expect(error).toMatchObject({ code: 'SWAP_SUBJECT_INVALID', message: expect.stringContaining(part) })
    expect((error as Error).message.length).toBeLessThan(400)
  })

  test('the path is named', async () => {
    await writeFile(join(folder, 'a.safetensors'), 'no subject here')
    await expect(Subject.load(join(folder, 'a.safetensors'))).rejects.toThrow(join(folder, 'a.safetensors'))
  })

  test('metadata that is not text', async () => {
    const header = Buffer.from(JSON.stringify({ __metadata__: { name: 5 } }).padEnd(64))
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(header.length))
    const error = Subject.load(Buffer.concat([length, header]))
    await expect(error).rejects.toMatchObject({ code: 'SWAP_SUBJECT_INVALID' })
  })
})

test('the name and class of a hostile header stay data', async () => {
  const strings = JSON.parse('{"name":"bob","class":"dog","__proto__":"x","constructor":"y"}') as Record<string, string>
  const bob = await Subject.load(file(pair([1, 1, 2]), strings))
  expect(Object.getPrototypeOf(bob.metadata)).toBe(Object.prototype)
  expect(Object.hasOwn(bob.metadata, 'constructor')).toBe(false)
})

describe('files', () => {
  test('more than 64 MB are not read', async () => {
    const path = join(folder, 'model.safetensors')
    await writeFile(path, '')
    await truncate(path, 64 * 2 ** 20 + 1)
    await expect(Subject.load(path)).rejects.toMatchObject({ code: 'SWAP_SUBJECT_TOO_LARGE' })
    await expect(Subject.load(new Uint8Array(64 * 2 ** 20 + 1))).rejects.toMatchObject({
      code: 'SWAP_SUBJECT_TOO_LARGE',
    })
  })

  test('one that is missing, a folder, and one that cannot be written', async () => {
    await expect(Subject.load(join(folder, 'no'))).rejects.toMatchObject({ code: 'SWAP_FILE_NOT_FOUND' })
    await expect(Subject.load(folder)).rejects.toMatchObject({ code: 'SWAP_FILE_IS_DIRECTORY' })
    await expect(alice.save(join(folder, 'no', 'a'))).rejects.toMatchObject({ code: 'SWAP_FILE_NOT_FOUND' })
    await expect(alice.save('')).rejects.toMatchObject({ code: 'SWAP_OPTION_INVALID' })
    await expect(Subject.load(5 as unknown as string)).rejects.toMatchObject({ code: 'SWAP_OPTION_INVALID' })
  })
})
