/** What torch.save() writes: which names of Python may stand in it, and where the tensors' numbers lie. */
import { SwapError } from '../errors.ts'
import { show } from '../model/json.ts'
import type { HeaderTensor } from '../model/safetensors.ts'
import { type Bytes, type Place, withArchive } from './archive.ts'
import { damagedPickle, Global, Inert, PICKLE_LIMIT, type PickleRules, refusePickle, unpickle } from './unpickler.ts'

/** A tensor of which only the place is known; `begin` and `end` count from the file's first byte. */
export class TorchTensor {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly begin: number
  readonly end: number

  constructor(dtype: string, shape: readonly number[], begin: number, end: number) {
    this.dtype = dtype
    this.shape = shape
    this.begin = begin
    this.end = end
  }
}

/** A file of torch.save(), without the tensors' numbers. */
export interface TorchArchive {
  /** Lists and tuples are arrays, dicts are `Map`s, tensors {@link TorchTensor}s; all else that is no plain value is an {@link Inert}. */
  root: unknown
  /** The tensors of the dict under `state_dict`, else of the file's own dict, in its order. */
  tensors: HeaderTensor[]
}

/** Kinds of storage, and the bytes of one number. */
const STORAGES = new Map<string, [dtype: string, unit: number]>([
  ['torch.DoubleStorage', ['F64', 8]],
  ['torch.FloatStorage', ['F32', 4]],
  ['torch.HalfStorage', ['F16', 2]],
  ['torch.BFloat16Storage', ['BF16', 2]],
  ['torch.LongStorage', ['I64', 8]],
  ['torch.IntStorage', ['I32', 4]],
  ['torch.ShortStorage', ['I16', 2]],
  ['torch.CharStorage', ['I8', 1]],
  ['torch.ByteStorage', ['U8', 1]],
  ['torch.BoolStorage', ['BOOL', 1]],
])

/** What stands beside the weights in files of training programs: kept as a name, never made. */
const INERT = new Set([
  '__builtin__.set',
  'builtins.set',
  '_codecs.encode',
  'numpy.dtype',
  'numpy.core.multiarray.scalar',
  'numpy._core.multiarray.scalar',
  'torch.nn.modules.container.ParameterDict',
  'pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint',
  // Kinds of numbers, as values.
  ...['float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32'].map((name) => `torch.${name}`),
])

const ORDERED_DICT = 'collections.OrderedDict'
const TENSORS = ['torch._utils._rebuild_tensor', 'torch._utils._rebuild_tensor_v2']
const PARAMETERS = ['torch._utils._rebuild_parameter', 'torch._utils._rebuild_parameter_with_state']
const CALLED = new Set(['torch.Size', ORDERED_DICT, ...TENSORS, ...PARAMETERS])

/** Where the numbers of one or more tensors lie. */
class Storage {
  readonly dtype: string
  /** Bytes of a number. */
  readonly unit: number
  readonly place: Place

  constructor(dtype: string, unit: number, place: Place) {
    this.dtype = dtype
    this.unit = unit
    this.place = place
  }
}

/**
 * Reads a file of torch.save() (PyTorch 1.6 and later) without running any of it: names, kinds, shapes, and where each
 * tensor's numbers lie, row-major, little-endian. The numbers themselves are not read.
 *
 * @param source a path, or the file's bytes
 * @param called what messages call the bytes
 * @throws SwapError `SWAP_FILE_PICKLE` for anything but tensors and plain values, `SWAP_FILE_PICKLE_LEGACY`,
 *   `SWAP_FILE_PICKLE_DAMAGED`, `SWAP_FILE_PICKLE_TENSOR` for a tensor whose numbers do not lie in a row, `SWAP_FILE_…`
 */
export async function readTorchArchive(source: string | Uint8Array, called = 'data'): Promise<TorchArchive> {
  return await withArchive(source, called, async (entries, bytes) => {
    const { name } = bytes
    const pickles = [...entries.keys()].filter((entry) => /^[^/]+\/data\.pkl$/.test(entry))
    const [pickle] = pickles
    if (pickle === undefined || pickles.length > 1) throw damagedPickle(name, 'it is no file of torch.save()')
    const prefix = pickle.slice(0, -'data.pkl'.length)
    const order = entries.get(`${prefix}byteorder`)
    if (order && (await readWord(bytes, order)) !== 'little') throw refusePickle(name, 'its numbers are big-endian')
    const place = entries.get(pickle)!
    if (place.end - place.begin > PICKLE_LIMIT) {
      throw refusePickle(name, `its pickle has ${place.end - place.begin} bytes`)
    }
    const root = unpickle(await bytes.read(place), new TorchRules(entries, prefix, name), name)
    return { root, tensors: [...namedTensors(root)] }
  })
}

function* namedTensors(root: unknown): Generator<HeaderTensor> {
  const inner = root instanceof Map ? root.get('state_dict') : undefined
  const dict = inner instanceof Map ? inner : root
  if (!(dict instanceof Map)) return
  for (const [name, tensor] of dict as Map<unknown, unknown>) {
    if (typeof name !== 'string' || !(tensor instanceof TorchTensor)) continue
    const { dtype, shape, begin, end } = tensor
    yield { name, dtype, shape: [...shape], begin, end }
  }
}

async function readWord(bytes: Bytes, { begin, end }: Place): Promise<string> {
  return Buffer.from(await bytes.read({ begin, end: Math.min(end, begin + 16) })).toString('latin1')
}

class TorchRules implements PickleRules {
  readonly #entries: ReadonlyMap<string, Place>
  readonly #prefix: string
  readonly #source: string

  constructor(entries: ReadonlyMap<string, Place>, prefix: string, source: string) {
    this.#entries = entries
    this.#prefix = prefix
    this.#source = source
  }

  allow(name: string): boolean {
    return CALLED.has(name) || INERT.has(name) || STORAGES.has(name)
  }

  call(name: string, args: readonly unknown[]): unknown {
    if (TENSORS.includes(name)) return this.#tensor(args)
    // The tensor itself, without what autograd keeps of it.
    if (PARAMETERS.includes(name)) return args[0] instanceof TorchTensor ? args[0] : undefined
    if (name === 'torch.Size') return args[0]
    if (name === ORDERED_DICT) return orderedDict(args)
    return INERT.has(name) ? new Inert(name) : undefined
  }

  /** `('storage', torch.FloatStorage, '0', 'cpu', numbers)` */
  persistent(id: unknown): Storage | undefined {
    if (!Array.isArray(id)) return undefined
    const [word, type, key, , count] = id as unknown[]
    const kind = type instanceof Global ? STORAGES.get(type.name) : undefined
    if (word !== 'storage' || !kind || typeof key !== 'string' || !isNatural(count)) return undefined
    const [dtype, unit] = kind
    const place = this.#entries.get(`${this.#prefix}data/${key}`)
    if (!place) throw damagedPickle(this.#source, `the numbers ${show(key)} are not in its archive`)
    if (place.end - place.begin !== count * unit) {
      const what = `the ${count} numbers ${show(key)} of kind ${dtype} have ${place.end - place.begin} bytes`
      throw damagedPickle(this.#source, what)
    }
    return new Storage(dtype, unit, place)
  }

  #tensor([storage, offset, shape, strides]: readonly unknown[]): TorchTensor | undefined {
    if (!(storage instanceof Storage) || !isNatural(offset) || !isNaturals(shape) || !isNaturals(strides))
      return undefined
    if (shape.length !== strides.length || shape.length > 8) return undefined
    const { dtype, unit, place } = storage
    const count = shape.includes(0) ? 0 : shape.reduce((all, one) => all * one, 1)
    const begin = place.begin + offset * unit
    const end = begin + count * unit
    if (!Number.isSafeInteger(end) || end > place.end) {
      const what = `a tensor of shape [${shape}] at ${offset} is larger than its ${place.end - place.begin} bytes`
      throw damagedPickle(this.#source, what)
    }
    if (!isRow(shape, strides)) {
      throw tensorError(this.#source, `a tensor of shape [${shape}] has the strides [${strides}]`)
    }
    return new TorchTensor(dtype, shape, begin, end)
  }
}

function tensorError(source: string, what: string): SwapError {
  return new SwapError('SWAP_FILE_PICKLE_TENSOR', `"${source}": ${what}`, {
    hint: 'save it with .contiguous() tensors, best as safetensors',
  })
}

/** Row-major without gaps; strides of lengths 1 mean nothing. */
function isRow(shape: readonly number[], strides: readonly number[]): boolean {
  if (shape.includes(0)) return true
  let stride = 1
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1 && strides[axis] !== stride) return false
    stride *= shape[axis]!
  }
  return true
}

function orderedDict([pairs = []]: readonly unknown[]): Map<unknown, unknown> | undefined {
  if (!Array.isArray(pairs) || !pairs.every((pair) => Array.isArray(pair) && pair.length === 2)) return undefined
  return new Map(pairs as [unknown, unknown][])
}

function isNatural(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}

function isNaturals(value: unknown): value is number[] {
  return Array.isArray(value) && value.every(isNatural)
}
