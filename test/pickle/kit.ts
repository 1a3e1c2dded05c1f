/** Archives of torch.save() put together byte by byte: what a pickle holds, and the numbers beside it. */
import { zip } from '../libtorch/fixtures.ts'

/** One piece of a pickle: bytes as they are, or text in Latin-1. */
export type Piece = Buffer | string | number

export const pickle = (...pieces: Piece[]): Buffer =>
  Buffer.concat([
    Buffer.of(0x80, 2),
    ...pieces.map((piece) =>
      typeof piece === 'number' ? Buffer.of(piece) : typeof piece === 'string' ? Buffer.from(piece, 'latin1') : piece,
    ),
    Buffer.from('.'),
  ])

export const global = (module: string, name: string): string => `c${module}\n${name}\n`
export const text = (value: string): Buffer => {
  const bytes = Buffer.from(value)
  return Buffer.concat([Buffer.from('X'), uint32(bytes.length), bytes])
}
export const int = (value: number): Buffer => {
  const bytes = Buffer.alloc(5, 'J')
  bytes.writeInt32LE(value, 1)
  return bytes
}
export const uint32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}
export const tuple = (...pieces: Piece[]): Piece[] => ['(', ...pieces, 't']
export const naturals = (values: number[]): Piece[] => tuple(...values.map(int))

export interface TensorParts {
  storage?: string
  key?: string
  count?: number
  offset?: number
  shape?: number[]
  strides?: number[]
}

/** A tensor as torch.save() writes one; by default 6 floats in 2 rows. */
export function tensor(parts: TensorParts = {}): Piece[] {
  const { storage = 'FloatStorage', key = '0', count = 6, offset = 0, shape = [2, 3], strides = [3, 1] } = parts
  return [
    global('torch._utils', '_rebuild_tensor_v2'),
    ...tuple(
      ...tuple(text('storage'), global('torch', storage), text(key), text('cpu'), int(count)),
      'Q',
      int(offset),
      ...naturals(shape),
      ...naturals(strides),
      0x89,
      global('collections', 'OrderedDict'),
      ')R',
    ),
    'R',
  ]
}

/** `{'a': …}` */
export const named = (...pieces: Piece[]): Buffer => pickle('}', text('a'), ...pieces, 's')

/** The file around a pickle; `numbers` are the bytes of the storage '0'. */
export function archive(
  data: Buffer,
  { numbers = Buffer.alloc(24), extra = {} as Record<string, string | Buffer> } = {},
) {
  return zip([
    { name: 'archive/data.pkl', data },
    { name: 'archive/byteorder', data: 'little' },
    { name: 'archive/data/0', data: numbers },
    { name: 'archive/version', data: '3\n' },
    ...Object.entries(extra).map(([name, bytes]) => ({ name, data: bytes })),
  ])
}
