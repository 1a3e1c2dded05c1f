/**
 * The safetensors format: eight bytes of header length, a JSON header, the tensors' bytes.
 *
 * Every number of a header is checked before it is used, because the engine trusts the table that is made of it.
 *
 * @see https://github.com/huggingface/safetensors
 */
import { open } from 'node:fs/promises'
import { SwapError, type SwapErrorCode } from '../errors.ts'
import { fileError } from '../files.ts'
import type { NativeTensor } from '../native.ts'
import { bfloatToFloat, halfToFloat } from './float.ts'
import { jsonObject, show } from './json.ts'

/** Bytes of one number of every kind that the format knows. */
const DTYPES = new Map<string, number>([
  ['F64', 8],
  ['F32', 4],
  ['F16', 2],
  ['BF16', 2],
  ['F8_E5M2', 1],
  ['F8_E4M3', 1],
  ['I64', 8],
  ['U64', 8],
  ['I32', 4],
  ['U32', 4],
  ['I16', 2],
  ['U16', 2],
  ['I8', 1],
  ['U8', 1],
  ['BOOL', 1],
])

/** The format's own limit. */
const HEADER_LIMIT = 100_000_000

/** One tensor as the header has it; `begin` and `end` count from the file's first byte. */
export interface HeaderTensor {
  name: string
  dtype: string
  shape: number[]
  begin: number
  end: number
}

export interface SafetensorsHeader {
  metadata: Record<string, string>
  tensors: HeaderTensor[]
}

function malformed(code: SwapErrorCode, source: string, what: string): SwapError {
  return new SwapError(code, `"${source}": ${what}`, { hint: 'the file is damaged or not safetensors; get it again' })
}

/**
 * Reads the header of a file, not its tensors.
 *
 * @throws SwapError `SWAP_TENSOR_HEADER`, `SWAP_TENSOR_CUT_SHORT`, `SWAP_TENSOR_DTYPE`, `SWAP_TENSOR_SHAPE`,
 * `SWAP_TENSOR_RANGE`, `SWAP_TENSOR_OVERLAP`, `SWAP_FILE_…`
 */
export async function readHeader(path: string): Promise<SafetensorsHeader> {
  const handle = await open(path, 'r').catch((error: unknown) => {
    throw fileError(error, path, 'read')
  })
  try {
    const { size } = await handle.stat()
    const take = async (position: number, length: number): Promise<Uint8Array> => {
      const bytes = new Uint8Array(length)
      for (let done = 0; done < length; ) {
        const { bytesRead } = await handle.read(bytes, done, length - done, position + done)
        if (bytesRead === 0) throw malformed('SWAP_TENSOR_CUT_SHORT', path, 'the file ended while it was read')
        done += bytesRead
      }
      return bytes
    }
    if (size < 8) throw malformed('SWAP_TENSOR_CUT_SHORT', path, `${size} bytes are too few for a safetensors file`)
    const length = headerLength(await take(0, 8), size, path)
    return parseHeader(await take(8, length), size, path)
  } catch (error) {
    throw fileError(error, path, 'read')
  } finally {
    await handle.close().catch(() => {})
  }
}

/**
 * Reads a whole file that is in memory; numbers of any floating kind become float32.
 *
 * @param source what the messages call it
 * @throws SwapError as {@link readHeader}; `SWAP_TENSOR_DTYPE` for a tensor that is not of a floating kind
 */
export function readSafetensors(
  bytes: Uint8Array,
  source = 'data',
): { metadata: Record<string, string>; tensors: NativeTensor[] } {
  const size = bytes.byteLength
  if (size < 8) throw malformed('SWAP_TENSOR_CUT_SHORT', source, `${size} bytes are too few for a safetensors file`)
  const length = headerLength(bytes.subarray(0, 8), size, source)
  const { metadata, tensors } = parseHeader(bytes.subarray(8, 8 + length), size, source)
  return {
    metadata,
    tensors: tensors.map(({ name, dtype, shape, begin, end }) => {
      const data = toFloat32(bytes.subarray(begin, end), dtype)
      if (!data) throw malformed('SWAP_TENSOR_DTYPE', source, `${show(name)} is of kind ${dtype}, not a floating one`)
      return { name, shape, data }
    }),
  }
}

/** Little-endian numbers of a floating kind as float32; undefined for another kind. */
export function toFloat32(bytes: Uint8Array, dtype: string): Float32Array | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const map = (unit: number, at: (offset: number) => number): Float32Array => {
    const out = new Float32Array(bytes.byteLength / unit)
    for (let i = 0; i < out.length; i++) out[i] = at(i * unit)
    return out
  }
  switch (dtype) {
    case 'F64':
      return map(8, (offset) => view.getFloat64(offset, true))
    case 'F32':
      return map(4, (offset) => view.getFloat32(offset, true))
    case 'F16':
      return map(2, (offset) => halfToFloat(view.getUint16(offset, true)))
    case 'BF16':
      return map(2, (offset) => bfloatToFloat(view.getUint16(offset, true)))
    default:
      return undefined
  }
}

/**
 * A safetensors file of float32 tensors: sorted by name, header padded to eight bytes, so equal input gives equal bytes.
 *
 * @throws SwapError `SWAP_TENSOR_SHAPE` where shape and data disagree, `SWAP_TENSOR_HEADER` for a name given twice
 */
export function writeSafetensors(tensors: readonly NativeTensor[], metadata: Record<string, string> = {}): Uint8Array {
  const sorted = [...tensors].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
  const entries: [string, unknown][] = []
  const words = Object.entries(metadata).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0))
  if (words.length > 0) entries.push(['__metadata__', Object.fromEntries(words)])
  let offset = 0
  for (const [index, { name, shape, data }] of sorted.entries()) {
    if (name === '__metadata__' || sorted[index - 1]?.name === name) {
      throw malformed('SWAP_TENSOR_HEADER', 'output', `the name ${show(name)} cannot be given to a tensor here`)
    }
    if (product(shape) !== data.length) {
      throw malformed('SWAP_TENSOR_SHAPE', 'output', `${show(name)} has shape [${shape}] and ${data.length} numbers`)
    }
    entries.push([name, { dtype: 'F32', shape, data_offsets: [offset, offset + data.length * 4] }])
    offset += data.length * 4
  }
  const header = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)))
  const padded = Math.ceil(header.length / 8) * 8
  const bytes = new Uint8Array(8 + padded + offset)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, BigInt(padded), true)
  bytes.fill(0x20, 8, 8 + padded)
  bytes.set(header, 8)
  let position = 8 + padded
  for (const { data } of sorted) {
    for (const value of data) {
      view.setFloat32(position, value, true)
      position += 4
    }
  }
  return bytes
}

function headerLength(bytes: Uint8Array, size: number, source: string): number {
  const length = new DataView(bytes.buffer, bytes.byteOffset, 8).getBigUint64(0, true)
  if (length > HEADER_LIMIT) {
    throw malformed('SWAP_TENSOR_HEADER', source, `a header of ${length} bytes is longer than ${HEADER_LIMIT}`)
  }
  if (Number(length) > size - 8) {
    throw malformed('SWAP_TENSOR_CUT_SHORT', source, `the header takes ${length} bytes, the file has ${size}`)
  }
  return Number(length)
}

function parseHeader(bytes: Uint8Array, size: number, source: string): SafetensorsHeader {
  let text: string
  let value: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    value = JSON.parse(text)
  } catch {
    throw malformed('SWAP_TENSOR_HEADER', source, 'the header is not JSON')
  }
  const header = jsonObject(value)
  if (!header) throw malformed('SWAP_TENSOR_HEADER', source, 'the header is not a JSON object')
  const twice = repeatedKey(text)
  if (twice !== undefined) {
    throw malformed('SWAP_TENSOR_HEADER', source, `${show(twice)} stands twice in the header`)
  }
  const start = 8 + bytes.byteLength
  const metadata: Record<string, string> = Object.create(null)
  const tensors: HeaderTensor[] = []
  for (const [name, entry] of header) {
    const fields = jsonObject(entry)
    if (!fields) throw malformed('SWAP_TENSOR_HEADER', source, `the header's ${show(name)} is not an object`)
    if (name === '__metadata__') {
      for (const [key, word] of fields) {
        if (typeof word !== 'string') throw malformed('SWAP_TENSOR_HEADER', source, `${show(key)} is not a string`)
        metadata[key] = word
      }
      continue
    }
    tensors.push(parseTensor(name, fields, start, size, source))
  }
  const ordered = tensors.filter(({ begin, end }) => end > begin).sort((a, b) => a.begin - b.begin)
  for (const [index, tensor] of ordered.entries()) {
    const before = ordered[index - 1]
    if (before && tensor.begin < before.end) {
      throw malformed('SWAP_TENSOR_OVERLAP', source, `${show(before.name)} and ${show(tensor.name)} share bytes`)
    }
  }
  return { metadata: { ...metadata }, tensors }
}

function parseTensor(
  name: string,
  fields: ReadonlyMap<string, unknown>,
  start: number,
  size: number,
  source: string,
): HeaderTensor {
  const dtype = fields.get('dtype')
  const unit = typeof dtype === 'string' ? DTYPES.get(dtype) : undefined
  if (typeof dtype !== 'string' || unit === undefined) {
    throw malformed('SWAP_TENSOR_DTYPE', source, `${show(name)} is of the unknown kind ${show(dtype)}`)
  }
  const shape = fields.get('shape')
  if (!isNaturals(shape)) {
    throw malformed('SWAP_TENSOR_SHAPE', source, `${show(name)} has the shape ${show(shape)}`)
  }
  const offsets = fields.get('data_offsets')
  if (!isNaturals(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!) {
    throw malformed('SWAP_TENSOR_RANGE', source, `${show(name)} has the range ${show(offsets)}`)
  }
  const begin = start + offsets[0]!
  const end = start + offsets[1]!
  if (end > size) {
    const what = `${show(name)} ends at byte ${end}, the file at ${size}`
    throw malformed('SWAP_TENSOR_CUT_SHORT', source, what)
  }
  const count = product(shape)
  if (!Number.isSafeInteger(count * unit) || count * unit !== end - begin) {
    const what = `${show(name)} of shape [${shape}] and kind ${dtype} has ${end - begin} bytes`
    throw malformed('SWAP_TENSOR_SHAPE', source, what)
  }
  return { name, dtype, shape, begin, end }
}

function isNaturals(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((one) => Number.isSafeInteger(one) && one >= 0)
}

function product(shape: readonly number[]): number {
  // A zero makes the whole product zero, whatever overflows beside it.
  return shape.includes(0) ? 0 : shape.reduce((all, one) => all * one, 1)
}

/** A key that stands twice at the top of a JSON object, which JSON.parse would pass over in silence. */
function repeatedKey(text: string): string | undefined {
  const seen = new Set<string>()
  let depth = 0
  for (let i = 0; i < text.length; i++) {
    const char = text[i]
    if (char === '{' || char === '[') depth++
    else if (char === '}' || char === ']') depth--
    else if (char === '"') {
      const from = i
      for (i++; text[i] !== '"'; i++) if (text[i] === '\\') i++
      if (depth !== 1 || !/^\s*:/.test(text.slice(i + 1, i + 65))) continue
      const key = JSON.parse(text.slice(from, i + 1)) as string
      if (seen.has(key)) return key
      seen.add(key)
    }
  }
  return undefined
}
