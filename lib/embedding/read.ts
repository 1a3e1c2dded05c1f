/**
 * Other people's Textual Inversion files: one vector or several that stand in a prompt, for one text encoder or for the
 * two of SDXL.
 *
 * | who writes it | what is in it |
 * | --- | --- |
 * | diffusers | `{ token: [n, d] }` or `{ token: [d] }`, as safetensors or as a pickle |
 * | AUTOMATIC1111 | `string_to_param: { '*': [n, d] }`, a pickle |
 * | kohya, OneTrainer | `emb_params` (or `emp_params`): `[n, d]` |
 * | all of them for SDXL | `clip_l: [n, 768]` and `clip_g: [n, 1280]` |
 */
import { basename, extname } from 'node:path'
import { SwapError } from '../errors.ts'
import { show } from '../model/json.ts'
import type { NativeTensor } from '../native.ts'
import type { Inert, TorchTensor } from '../pickle/index.ts'
import { NAME } from '../subject_name.ts'

/** What such a file says. */
export interface Embedding {
  name: string
  /** Vectors in the prompt. */
  tokens: number
  /** `[tokens, width]` for each text encoder. */
  vectors: Float32Array[]
  steps?: number | undefined
  /** The base model's name. */
  model?: string | undefined
}

/** Names of tensors that say nothing of what is called so. */
const PLAIN = new Set(['emb_params', 'emp_params', '*'])
/** OneTrainer's vectors that are added behind the text encoder. */
const BEHIND = /^(em[bp]_params|clip_[lg])_out$/

/**
 * The embedding that a safetensors file holds.
 *
 * @param source a path, or how messages call the bytes
 * @returns undefined where the tensors are none of an embedding
 * @throws SwapError `SWAP_SUBJECT_EMBEDDING` for one of a kind that is not read
 */
export function readEmbedding(tensors: readonly NativeTensor[], source: string): Embedding | undefined {
  const behind = tensors.find(({ name }) => BEHIND.test(name))
  if (behind) {
    throw unread(source, `${show(behind.name)} stands behind the text encoder, not in the prompt`)
  }
  const named = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  const [l, g] = [named.get('clip_l'), named.get('clip_g')]
  if (l && g && tensors.length === 2) {
    const [first, second] = [rows(l), rows(g)]
    if (!first || !second) return undefined
    if (first.tokens !== second.tokens) {
      throw unread(source, `"clip_l" has ${first.tokens} vectors and "clip_g" ${second.tokens}`)
    }
    checkNumbers([first.data, second.data], source)
    return { name: nameFrom(source), tokens: first.tokens, vectors: [first.data, second.data] }
  }
  const all = tensors.map((tensor) => rows(tensor))
  const [one] = all
  if (!one || all.includes(undefined)) return undefined
  if (all.length > 1) {
    const names = tensors.slice(0, 4).map(({ name }) => show(name))
    throw unread(source, `it holds ${all.length} embeddings, ${names.join(', ')}, not one`)
  }
  checkNumbers([one.data], source)
  const [{ name }] = tensors as [NativeTensor]
  return { name: nameFrom(source, PLAIN.has(name) ? undefined : name), tokens: one.tokens, vectors: [one.data] }
}

/**
 * The embedding that a file of torch.save() holds; nothing of it is run.
 *
 * @throws SwapError `SWAP_SUBJECT_EMBEDDING`, `SWAP_FILE_PICKLE…`
 */
export async function readTorchEmbedding(bytes: Uint8Array, source: string): Promise<Embedding | undefined> {
  const [{ readTorchArchive, Inert, TorchTensor }, { toFloat32 }] = await Promise.all([
    import('../pickle/index.ts'),
    import('../model/safetensors.ts'),
  ])
  const { root } = await readTorchArchive(bytes, source)
  if (!(root instanceof Map)) return undefined
  const param = root.get('string_to_param') as unknown
  const dict = param instanceof Inert ? stateOf(param) : param === undefined ? root : param
  if (!(dict instanceof Map)) return undefined
  const tensors: NativeTensor[] = []
  for (const [name, value] of dict as Map<unknown, unknown>) {
    if (!(value instanceof TorchTensor) || typeof name !== 'string') continue
    tensors.push({ name, shape: [...value.shape], data: numbersOf(value, bytes, toFloat32, source) })
  }
  const found = readEmbedding(tensors, source)
  if (!found || param === undefined) return found
  const [given, step, model] = ['name', 'step', 'sd_checkpoint_name'].map((key) => root.get(key) as unknown)
  return {
    ...found,
    name: nameFrom(source, typeof given === 'string' ? given : undefined),
    steps: Number.isSafeInteger(step) && (step as number) >= 0 ? (step as number) : undefined,
    model: typeof model === 'string' && /^[^\p{Cc}]{1,256}$/u.test(model) ? model : undefined,
  }
}

/** The parameters of a module that was pickled whole. */
function stateOf({ state }: Inert): unknown {
  return state instanceof Map ? (state.get('_parameters') as unknown) : undefined
}

function numbersOf(
  { dtype, begin, end }: TorchTensor,
  bytes: Uint8Array,
  toFloat32: (bytes: Uint8Array, dtype: string) => Float32Array | undefined,
  source: string,
): Float32Array {
  const data = toFloat32(bytes.subarray(begin, end), dtype)
  if (!data) throw unread(source, `its numbers are of kind ${dtype}`)
  return data
}

/** `[n, d]` or `[d]` as so many vectors; undefined where it is neither. */
function rows({ shape, data }: NativeTensor): { tokens: number; data: Float32Array } | undefined {
  const [tokens = 0, width = 0] = shape.length === 1 ? [1, ...shape] : shape
  if (shape.length < 1 || shape.length > 2 || tokens < 1 || tokens > 75 || width < 1 || width > 65_536) return undefined
  return { tokens, data }
}

function checkNumbers(vectors: Float32Array[], source: string): void {
  const bad = vectors.flatMap((data) => [...data]).find((value) => !Number.isFinite(value))
  if (bad !== undefined) throw unread(source, `it has the value ${bad}`)
}

/** Its token without brackets, else the file's name, else `subject`: whatever can stand in `<…>`. */
function nameFrom(source: string, token?: string): string {
  const file = basename(source, extname(source))
  for (const text of [token, file]) {
    const name = text?.replace(/^<|>$/g, '').replace(/[\s.]+/g, '-')
    if (name !== undefined && NAME.test(name)) return name
  }
  return 'subject'
}

function unread(source: string, what: string): SwapError {
  return new SwapError('SWAP_SUBJECT_EMBEDDING', `"${source}" cannot be used as a subject: ${what}`, {
    hint: 'one embedding a file, that stands in the prompt, for one text encoder or as clip_l and clip_g',
  })
}
