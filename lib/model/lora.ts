/** LoRA files: their factors become deltas that the engine adds to the weights while it reads them. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { extname, resolve } from 'node:path'
import { SwapError } from '../errors.ts'
import { fileError } from '../files.ts'
import type { ModelSpec, TensorEntry, WeightDelta } from '../native.ts'
import { expectedTensors, type Shape } from './expected.ts'
import { jsonObject, parseJson } from './json.ts'
import { LoraTargets, otherKind, type Role, splitName } from './lora_names.ts'
import { type HeaderTensor, readHeader, toFloat32 } from './safetensors.ts'
import { floating } from './table.ts'

/** A LoRA and how strongly it counts. */
export interface LoraFile {
  file: string
  scale: number
}

/** What the engine gets, and what is known of the files. */
export interface Loras {
  tensors: TensorEntry[]
  deltas: WeightDelta[]
  files: LoraInfo[]
  /** Of the files' bytes and scales; empty without files. */
  hash: string
}

/** No LoRA. */
export const NO_LORAS: Loras = { tensors: [], deltas: [], files: [], hash: '' }

/** A LoRA that is in use. Plain and JSON-safe. */
export interface LoraInfo {
  readonly file: string
  readonly scale: number
  /** How many weights it changes. */
  readonly weights: number
}

/** What must be known of a model to place LoRA in it: `tensors` are those that the engine reads. */
export interface LoraBase {
  spec: ModelSpec
  tensors: readonly TensorEntry[]
}

type Group = Partial<Record<Role, HeaderTensor>>

/** Names that are listed in a message; more would not be read. */
const LISTED = 12

/**
 * Reads the headers of LoRA files for a model, and checks that every tensor of them has its place in it.
 *
 * @throws SwapError `SWAP_LORA_…`, `SWAP_TENSOR_…`, `SWAP_FILE_…`
 */
export async function readLoras(model: LoraBase, files: readonly LoraFile[]): Promise<Loras> {
  if (files.length === 0) return NO_LORAS
  const loras: Loras = { tensors: [], deltas: [], files: [], hash: '' }
  const hash = createHash('sha256')
  const shapes = expectedTensors(model.spec)
  const targets = new LoraTargets(model.spec, shapes)
  const base = { spec: model.spec, read: new Set(model.tensors.map(({ name }) => name)) }
  for (const [index, lora] of files.entries()) {
    const before = loras.deltas.length
    await readLora(index, lora, base, shapes, targets, loras)
    loras.files.push({ file: resolve(lora.file), scale: lora.scale, weights: loras.deltas.length - before })
    for await (const bytes of createReadStream(lora.file)) hash.update(bytes as Buffer)
    hash.update(`:${lora.scale};`)
  }
  return { ...loras, hash: hash.digest('hex') }
}

async function readLora(
  index: number,
  lora: LoraFile,
  { spec, read }: { spec: ModelSpec; read: ReadonlySet<string> },
  shapes: ReadonlyMap<string, Shape>,
  targets: LoraTargets,
  { tensors, deltas }: Loras,
): Promise<void> {
  const file = resolve(lora.file)
  const stored = await readStored(file)
  const { groups, unknown } = group(file, stored.tensors)
  checkBase(file, groups, spec)
  const found = new Map<string, string>()
  for (const [module, factors] of groups) {
    const target = targets.find(module)
    if (target === undefined) unknown.push(...Object.values(factors).map(({ name }) => name))
    else if (found.has(target)) throw twice(file, module, found.get(target)!)
    else found.set(target, module)
  }
  if (unknown.length > 0) throw unmatched(file, unknown, stored.tensors.length)
  const alphas = adapterAlphas(stored.metadata)
  for (const [target, module] of found) {
    const { down, up, middle, alpha } = groups.get(module)!
    if (!down || !up) throw incomplete(file, module, down ? 'up' : 'down')
    const rank = checkShapes(file, module, shapes.get(target)!, down, up, middle)
    const own = alpha ? await readNumber(file, alpha) : undefined
    // XL's first text encoder has a last layer that nothing reads, and LoRA have factors for it.
    if (!read.has(target)) continue
    const entry = (role: string, { dtype, shape, begin, end }: HeaderTensor): string => {
      const name = `lora.${index}.${target}.${role}`
      tensors.push({ name, dtype: floating(dtype, file, module), shape: [...shape], file, begin, end })
      return name
    }
    deltas.push({
      target,
      down: entry('down', down),
      up: entry('up', up),
      middle: middle ? entry('middle', middle) : '',
      scale: (own === undefined ? alphas(module, rank) : own / rank) * lora.scale,
    })
  }
}

async function readStored(file: string): Promise<{ tensors: HeaderTensor[]; metadata: Record<string, string> }> {
  if (!['.pt', '.pth', '.bin', '.ckpt'].includes(extname(file).toLowerCase())) return await readHeader(file)
  const { readTorchArchive } = await import('../pickle/index.ts')
  return { tensors: (await readTorchArchive(file)).tensors, metadata: {} }
}

/** The tensors by what they are about, and the names that belong to no LoRA. */
function group(file: string, tensors: readonly HeaderTensor[]): { groups: Map<string, Group>; unknown: string[] } {
  const groups = new Map<string, Group>()
  const unknown: string[] = []
  for (const tensor of tensors) {
    const kind = otherKind(tensor.name)
    if (kind !== undefined) {
      throw new SwapError('SWAP_LORA_KIND', `"${file}" is ${kind}, by its ${tensor.name}`, {
        hint: 'plain LoRA are applied, of linear layers and convolutions; merge others into a model with their own program',
      })
    }
    const split = splitName(tensor.name)
    if (!split) {
      unknown.push(tensor.name)
      continue
    }
    const factors = groups.get(split.module) ?? {}
    if (factors[split.role]) throw twice(file, tensor.name, factors[split.role]!.name)
    factors[split.role] = tensor
    groups.set(split.module, factors)
  }
  if (groups.size === 0) {
    throw new SwapError('SWAP_LORA_FILE', `"${file}" is no LoRA: none of its ${tensors.length} tensors is a factor`, {
      hint: 'a LoRA has tensors such as lora_unet_….lora_down.weight or unet.….lora_A.weight; a model goes into "model"',
    })
  }
  return { groups, unknown }
}

/**
 * The width of the text states that its cross-attention takes says which family it was made for, and the name of a lone
 * text encoder that it was not XL, whose first is as wide as that of 1.x. Some of 1.x say `lora_te1_` as those of XL do.
 */
function checkBase(file: string, groups: ReadonlyMap<string, Group>, { unet, textEncoders }: ModelSpec): void {
  for (const [module, { down }] of groups) {
    if (textEncoders.length > 1 && module.startsWith('lora_te_')) {
      throw otherBase(file, `its ${module} is of a model with one text encoder; this one has ${textEncoders.length}`)
    }
    if (!/attn2[._](processor\.)?to_[kv](_lora)?$/.test(module) || down?.shape.length !== 2) continue
    const width = down.shape[1]!
    if (width === unet.crossAttentionDim) continue
    throw otherBase(
      file,
      `its ${module} takes text states of width ${width}${family(width)}; the model's are ${unet.crossAttentionDim} wide`,
    )
  }
}

function family(width: number): string {
  const names: Record<number, string> = { 768: '1.x', 1024: '2.x', 2048: 'XL' }
  return names[width] ? ` (Stable Diffusion ${names[width]})` : ''
}

function checkShapes(
  file: string,
  module: string,
  shape: Shape,
  down: HeaderTensor,
  up: HeaderTensor,
  middle: HeaderTensor | undefined,
): number {
  const plain = (sizes: readonly number[]): string => sizes.join().replace(/(,1)+$/, '')
  const rank = down.shape[0] ?? 0
  const kernel = shape.slice(2)
  const inner = up.shape[1] ?? 0
  const fits = middle
    ? plain(down.shape) === plain([rank, shape[1]!]) && plain(middle.shape) === plain([inner, rank, ...kernel])
    : plain(down.shape) === plain([rank, ...shape.slice(1)]) && rank === inner
  if (rank > 0 && inner > 0 && fits && plain(up.shape) === plain([shape[0]!, inner])) return rank
  const made = [down, ...(middle ? [middle] : []), up].map((factor) => `[${factor.shape}]`).join(', ')
  throw otherBase(file, `its ${module} has the factors ${made}; the model's weight is [${shape}]`)
}

/** What PEFT notes in the file's metadata: the scale of a module of so many ranks. */
function adapterAlphas(metadata: Record<string, string>): (module: string, rank: number) => number {
  let notes: ReturnType<typeof jsonObject>
  try {
    notes = jsonObject(parseJson(metadata.lora_adapter_metadata ?? '{}'))
  } catch {
    notes = undefined
  }
  return (module, rank) => {
    const part = /^(unet|text_encoder(?:_2)?)\./.exec(module)?.[0] ?? ''
    const pattern = jsonObject(notes?.get(`${part}alpha_pattern`))
    const inner = module.slice(part.length)
    const own = [...(pattern ?? [])].find(([key]) => inner === key || inner.endsWith(`.${key}`))?.[1]
    const alpha = own ?? notes?.get(`${part}lora_alpha`)
    if (typeof alpha !== 'number' || !Number.isFinite(alpha)) return 1
    return alpha / (notes?.get(`${part}use_rslora`) === true ? Math.sqrt(rank) : rank)
  }
}

async function readNumber(file: string, { name, dtype, shape, begin, end }: HeaderTensor): Promise<number> {
  const bad = (what: string): SwapError =>
    new SwapError('SWAP_LORA_ALPHA', `"${file}": ${name} ${what}`, { hint: 'the file is damaged; get it again' })
  if (shape.some((size) => size !== 1)) throw bad(`has the shape [${shape}], not that of one number`)
  const bytes = new Uint8Array(end - begin)
  const handle = await open(file, 'r').catch((error: unknown) => {
    throw fileError(error, file, 'read')
  })
  try {
    const { bytesRead } = await handle.read(bytes, 0, bytes.length, begin)
    if (bytesRead < bytes.length) throw bad('lies behind the end of the file')
  } catch (error) {
    throw fileError(error, file, 'read')
  } finally {
    await handle.close().catch(() => {})
  }
  const view = new DataView(bytes.buffer)
  const value =
    dtype === 'I64'
      ? Number(view.getBigInt64(0, true))
      : dtype === 'I32'
        ? view.getInt32(0, true)
        : toFloat32(bytes, dtype)?.[0]
  if (value === undefined || !Number.isFinite(value)) throw bad(`is ${value ?? `of kind ${dtype}`}, not a number`)
  return value
}

function otherBase(file: string, what: string): SwapError {
  return new SwapError('SWAP_LORA_BASE', `"${file}" was made for another base model: ${what}`, {
    hint: 'open the model that it was made for, or one of the same family',
  })
}

function incomplete(file: string, module: string, role: string): SwapError {
  return new SwapError('SWAP_LORA_INCOMPLETE', `"${file}" is incomplete: ${module} has no ${role} factor`, {
    hint: 'get the file again',
  })
}

function twice(file: string, one: string, other: string): SwapError {
  return new SwapError('SWAP_LORA_TWICE', `"${file}" has two tensors for one place: ${other} and ${one}`, {
    hint: 'the file is a mix of two; get it again',
  })
}

function unmatched(file: string, names: string[], all: number): SwapError {
  const listed = names.slice(0, LISTED).join(', ')
  const more = names.length > LISTED ? ` and ${names.length - LISTED} more` : ''
  const xl = names.some((name) => /lora_te2_|^text_encoder_2\./.test(name))
  return new SwapError(
    'SWAP_LORA_KEYS',
    `"${file}": ${names.length} of ${all} tensors match nothing in the model: ${listed}${more}`,
    {
      hint: xl
        ? 'it was made for Stable Diffusion XL, which has a second text encoder'
        : 'open the model that it was made for, or one of the same architecture',
    },
  )
}
