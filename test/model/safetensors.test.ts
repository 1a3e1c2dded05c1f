import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import type { SwapError } from '../../lib/errors.ts'
import { floatBitsToHalf, halfToFloat } from '../../lib/model/float.ts'
import { readHeader, readSafetensors, writeSafetensors } from '../../lib/model/safetensors.ts'
import { assembled, rawSafetensors } from './folder_of.ts'

const scratch = mkdtempSync(join(tmpdir(), 'swap-safetensors-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

let count = 0
function file(bytes: Uint8Array): string {
  const path = join(scratch, `${count++}.safetensors`)
  writeFileSync(path, bytes)
  return path
}

const A = { name: 'a', shape: [2, 3], data: Float32Array.of(1, -2, 0.1, 3e38, 1e-40, -0) }
const B = { name: 'b.weight', shape: [], data: Float32Array.of(7) }
const EMPTY = { name: 'c', shape: [0, 4], data: new Float32Array() }

describe('what is written', () => {
  test('is read back, bit for bit', () => {
    const { tensors, metadata } = readSafetensors(writeSafetensors([B, A, EMPTY], { z: '1', a: 'ü "x"' }))
    expect(tensors).toEqual([A, B, EMPTY])
    expect(Object.is(tensors[0]!.data[5], -0)).toBe(true)
    expect(metadata).toEqual({ a: 'ü "x"', z: '1' })
  })

  test('does not depend on the order of the tensors and the metadata', () => {
    const one = writeSafetensors([A, B], { x: '1', y: '2' })
    expect(writeSafetensors([B, A], { y: '2', x: '1' })).toEqual(one)
  })

  test('begins its tensors at a multiple of eight bytes', () => {
    for (const name of ['a', 'ab', 'abc', 'abcd']) {
      const bytes = writeSafetensors([{ ...B, name }])
      expect(new DataView(bytes.buffer).getUint32(0, true) % 8).toBe(0)
      expect(bytes.length % 4).toBe(0)
    }
  })

  test('has a header of absolute ranges in a file', async () => {
    const bytes = writeSafetensors([A, B], { k: 'v' })
    const header = await readHeader(file(bytes))
    const start = bytes.length - 28
    expect(header).toEqual({
      metadata: { k: 'v' },
      tensors: [
        { name: 'a', dtype: 'F32', shape: [2, 3], begin: start, end: start + 24 },
        { name: 'b.weight', dtype: 'F32', shape: [], begin: start + 24, end: start + 28 },
      ],
    })
  })

  test.each([
    ['SWAP_TENSOR_SHAPE', [{ ...A, shape: [5] }]],
    ['SWAP_TENSOR_HEADER', [A, A]],
    ['SWAP_TENSOR_HEADER', [{ ...A, name: '__metadata__' }]],
  ])('%s where it cannot be', (code, tensors) => {
    expect(() => writeSafetensors(tensors)).toThrow(expect.objectContaining({ code }))
  })
})

describe('other kinds of numbers', () => {
  const read = (dtype: string, bytes: Uint8Array, shape: number[]) => [
    ...readSafetensors(rawSafetensors([{ name: 'x', dtype, shape, bytes }])).tensors[0]!.data,
  ]

  test('halves, bfloats and doubles become float32', () => {
    const halves = new Uint8Array(Uint16Array.of(0x3c00, 0xc000, 0x7bff, 0x0001, 0x7c00).buffer)
    expect(read('F16', halves, [5])).toEqual([1, -2, 65504, 2 ** -24, Number.POSITIVE_INFINITY])
    expect(read('BF16', new Uint8Array(Uint16Array.of(0x3f80, 0xc040).buffer), [2])).toEqual([1, -3])
    expect(read('F64', new Uint8Array(Float64Array.of(0.5, -1e10).buffer), [1, 2])).toEqual([0.5, -1e10])
  })

  test('whole numbers are no tensors to compute with', () => {
    expect(() => read('I64', new Uint8Array(8), [1])).toThrow(expect.objectContaining({ code: 'SWAP_TENSOR_DTYPE' }))
  })

  test('every half comes back from its float32', () => {
    const view = new DataView(new ArrayBuffer(4))
    for (let bits = 0; bits < 65536; bits++) {
      const value = halfToFloat(bits)
      if (Number.isNaN(value)) continue
      view.setFloat32(0, value)
      expect(floatBitsToHalf(view.getUint32(0))).toBe(bits)
    }
  })

  test('halves are rounded to the nearest, ties to even', () => {
    const view = new DataView(new ArrayBuffer(4))
    const half = (value: number): number => {
      view.setFloat32(0, value)
      return halfToFloat(floatBitsToHalf(view.getUint32(0)))
    }
    expect(half(1 + 2 ** -11)).toBe(1)
    expect(half(1 + 3 * 2 ** -11)).toBe(1 + 2 ** -9)
    expect(half(1 + 2 ** -11 + 2 ** -20)).toBe(1 + 2 ** -10)
    expect(half(65519)).toBe(65504)
    expect(half(65520)).toBe(Number.POSITIVE_INFINITY)
    expect(half(2 ** -25)).toBe(0)
    expect(half(1.5 * 2 ** -25)).toBe(2 ** -24)
    expect(half(1.5 * 2 ** -24)).toBe(2 ** -23)
    expect(half(Number.NaN)).toBeNaN()
  })
})

const entry = (fields: object): string =>
  JSON.stringify({ x: { dtype: 'F32', shape: [2], data_offsets: [0, 8], ...fields } })
const eight = new Uint8Array(8)
const two = (begin: number, end: number): string =>
  JSON.stringify({
    x: { dtype: 'F32', shape: [2], data_offsets: [0, 8] },
    y: { dtype: 'F32', shape: [2], data_offsets: [begin, end] },
  })

describe.each<[string, string, Uint8Array]>([
  ['an empty file', 'SWAP_TENSOR_CUT_SHORT', new Uint8Array()],
  ['seven bytes', 'SWAP_TENSOR_CUT_SHORT', new Uint8Array(7)],
  ['a header beyond the file', 'SWAP_TENSOR_CUT_SHORT', assembled(entry({}), eight).slice(0, 30)],
  ['a header of 2^63 bytes', 'SWAP_TENSOR_HEADER', Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 128, 1, 2, 3)],
  ['a header of 101 MB', 'SWAP_TENSOR_HEADER', Uint8Array.of(0x40, 0x1e, 0x05, 0x06, 0, 0, 0, 0, 1, 2, 3)],
  ['a header that is no JSON', 'SWAP_TENSOR_HEADER', assembled('{"x": ')],
  ['a header that is no UTF-8', 'SWAP_TENSOR_HEADER', assembled('{}').fill(0xff, 8)],
  ['a header that is a list', 'SWAP_TENSOR_HEADER', assembled('[]')],
  ['a header of no bytes', 'SWAP_TENSOR_HEADER', assembled('')],
  ['an entry that is a number', 'SWAP_TENSOR_HEADER', assembled('{"x": 5}')],
  ['metadata that is a number', 'SWAP_TENSOR_HEADER', assembled('{"__metadata__": {"a": 1}}')],
  [
    'a name twice',
    'SWAP_TENSOR_HEADER',
    assembled(
      '{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"\\u0078" : {"dtype":"F32","shape":[0],"data_offsets":[8,8]}}',
      eight,
    ),
  ],
  ['an unknown kind', 'SWAP_TENSOR_DTYPE', assembled(entry({ dtype: 'Q4' }), eight)],
  ['a kind named like a method', 'SWAP_TENSOR_DTYPE', assembled(entry({ dtype: 'constructor' }), eight)],
  ['no kind', 'SWAP_TENSOR_DTYPE', assembled(entry({ dtype: undefined }), eight)],
  ['a size below zero', 'SWAP_TENSOR_SHAPE', assembled(entry({ shape: [-2] }), eight)],
  ['a broken size', 'SWAP_TENSOR_SHAPE', assembled(entry({ shape: [0.5, 4] }), eight)],
  ['a size that is a text', 'SWAP_TENSOR_SHAPE', assembled(entry({ shape: ['2'] }), eight)],
  ['a size that is not exact', 'SWAP_TENSOR_SHAPE', assembled(entry({ shape: [2 ** 53] }), eight)],
  ['sizes whose product overflows', 'SWAP_TENSOR_SHAPE', assembled(entry({ shape: [2 ** 40, 2 ** 40] }), eight)],
  ['fewer numbers than the shape says', 'SWAP_TENSOR_SHAPE', assembled(entry({ shape: [3] }), eight)],
  ['more numbers than the shape says', 'SWAP_TENSOR_SHAPE', assembled(entry({ shape: [1] }), eight)],
  ['bytes for a shape of none', 'SWAP_TENSOR_SHAPE', assembled(entry({ shape: [0, 2 ** 52] }), eight)],
  ['a range that ends before it begins', 'SWAP_TENSOR_RANGE', assembled(entry({ data_offsets: [8, 0] }), eight)],
  ['a range below zero', 'SWAP_TENSOR_RANGE', assembled(entry({ data_offsets: [-8, 0] }), eight)],
  ['a range of three', 'SWAP_TENSOR_RANGE', assembled(entry({ data_offsets: [0, 4, 8] }), eight)],
  ['no range', 'SWAP_TENSOR_RANGE', assembled(entry({ data_offsets: null }), eight)],
  ['a range beyond the file', 'SWAP_TENSOR_CUT_SHORT', assembled(entry({ data_offsets: [8, 16] }), eight)],
  ['a range of 2^53 bytes', 'SWAP_TENSOR_RANGE', assembled(entry({ data_offsets: [0, 2 ** 53] }), eight)],
  ['a file cut short', 'SWAP_TENSOR_CUT_SHORT', assembled(entry({}), eight).slice(0, -1)],
  ['two tensors on the same bytes', 'SWAP_TENSOR_OVERLAP', assembled(two(0, 8), eight)],
  ['two tensors that share four bytes', 'SWAP_TENSOR_OVERLAP', assembled(two(4, 12), new Uint8Array(12))],
])('%s', (_, code, bytes) => {
  test(`is ${code}, in memory and in a file`, async () => {
    expect(() => readSafetensors(bytes)).toThrow(expect.objectContaining({ code }))
    const path = file(bytes)
    const error = (await readHeader(path).catch((thrown: unknown) => thrown)) as SwapError
    expect(error.code).toBe(code)
    expect(error.message).toContain(path)
  })
})

test('__proto__ is a name like any other and changes nothing', () => {
  const header = '{"__metadata__":{"__proto__":"m"},"__proto__":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
  const { tensors, metadata } = readSafetensors(assembled(header, eight))
  expect(tensors.map(({ name }) => name)).toEqual(['__proto__'])
  expect(Object.keys(metadata)).toEqual(['__proto__'])
  expect(({} as Record<string, unknown>).dtype).toBeUndefined()
})

test('a cut file is found at every length', async () => {
  const path = file(writeSafetensors([A, B], { k: 'v' }))
  for (let length = writeSafetensors([A, B], { k: 'v' }).length - 1; length >= 0; length--) {
    truncateSync(path, length)
    await expect(readHeader(path)).rejects.toMatchObject({ code: expect.stringMatching(/^SWAP_TENSOR_/) })
  }
})

test('random bytes in a header never give a range outside the file', () => {
  const good = writeSafetensors([A, B], { k: 'v' })
  let state = 1
  const random = (limit: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return (state >>> 8) % limit
  }
  let read = 0
  for (let round = 0; round < 3000; round++) {
    const bytes = good.slice()
    for (let change = 0; change <= random(3); change++) bytes[random(bytes.length - 28)] = 32 + random(96)
    try {
      for (const { shape, data } of readSafetensors(bytes).tensors) {
        expect(shape.reduce((a, b) => a * b, 1)).toBe(data.length)
      }
      read++
    } catch (error) {
      expect((error as SwapError).code).toMatch(/^SWAP_TENSOR_/)
    }
  }
  expect(read).toBeGreaterThan(0)
})

test('a file that is not there, and a folder', async () => {
  await expect(readHeader(join(scratch, 'none'))).rejects.toMatchObject({ code: 'SWAP_FILE_NOT_FOUND' })
  await expect(readHeader(scratch)).rejects.toMatchObject({ code: 'SWAP_FILE_IS_DIRECTORY' })
})
