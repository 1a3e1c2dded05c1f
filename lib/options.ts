/**
 * What a caller may say. One schema is the type, the validation and the documentation: ranges and defaults
 * stand here and nowhere else. Left optional without a default is what the model decides (`Model.defaults`).
 */
import { inspect } from 'node:util'
import * as v from 'valibot'
import { SwapError } from './errors.ts'
import type { ImageInput } from './image/index.ts'
import { Subject } from './subject.ts'
import { NAME } from './subject_name.ts'

/** Most pixels a side of a generated picture. */
export const MAX_SIZE = 2048

export const SCHEDULERS = ['ddim', 'pndm', 'euler', 'euler-a', 'dpm++2m', 'dpm++2m-karras', 'unipc', 'lcm'] as const

const integer = (least: number, most: number) => {
  const must = `must be a whole number from ${least} to ${most}`
  return v.pipe(v.number(must), v.integer(must), v.minValue(least, must), v.maxValue(most, must))
}
const number = (least: number, most: number) => {
  const must = `must be a number from ${least} to ${most}`
  return v.pipe(v.number(must), v.finite(must), v.minValue(least, must), v.maxValue(most, must))
}
const MUST_STRENGTH = 'must be a number above 0 and at most 1'
const strength = v.pipe(v.number(MUST_STRENGTH), v.gtValue(0, MUST_STRENGTH), v.maxValue(1, MUST_STRENGTH))
const text = (least: number, most: number) => {
  const must = `must be a text of ${least} to ${most} characters`
  return v.pipe(v.string(must), v.minLength(least, must), v.maxLength(most, must))
}
const oneOf = <const T extends readonly string[]>(values: T) =>
  v.picklist(values, `must be one of ${values.map((value) => `'${value}'`).join(', ')}`)
const path = v.pipe(v.string('must be a path'), v.minLength(1, 'must be a path'))
const seed = integer(0, Number.MAX_SAFE_INTEGER)
const object = <const T extends v.ObjectEntries>(entries: T) => v.strictObject(entries, 'must be an object')

const MUST_NAME = 'must begin with a letter and have at most 64 letters, digits, - and _'

/** A picture, in any of the forms that pictures come in. */
export const image = v.custom<ImageInput>((value) => {
  if (typeof value === 'string') return value.length > 0
  if (value instanceof Uint8Array) return true
  if (typeof value !== 'object' || value === null) return false
  const { data, width, height } = value as Record<string, unknown>
  return data instanceof Uint8Array && Number.isSafeInteger(width) && Number.isSafeInteger(height)
}, 'must be a path, a Uint8Array with an encoded picture, or { data, width, height } with RGB bytes')

const cropSquare = object({
  left: integer(0, 1_000_000),
  top: integer(0, 1_000_000),
  size: integer(1, 1_000_000),
})
const crop = v.lazy(
  (value): v.GenericSchema<'center' | v.InferOutput<typeof cropSquare>> =>
    typeof value === 'object' ? cropSquare : v.literal('center', "must be 'center' or { left, top, size } in pixels"),
)

const levels = v.lazy(
  (value): v.GenericSchema<'all' | number[]> =>
    Array.isArray(value)
      ? v.pipe(v.array(integer(0, 9)), v.minLength(1, 'must name at least one level'))
      : v.literal('all', "must be a list of downsampling levels, 0 the finest, or 'all'"),
)

const checkpointFile = object({ path, every: integer(1, 100_000) })
const checkpoint = v.lazy(
  (value): v.GenericSchema<string | v.InferOutput<typeof checkpointFile>> =>
    typeof value === 'object' ? checkpointFile : v.pipe(v.string('must be a path or { path, every }'), path),
)

const like = v.custom<string | Uint8Array | Readonly<Record<string, unknown>>>(
  (value) => (typeof value === 'string' ? value.length > 0 : typeof value === 'object' && value !== null),
  "must be a picture's parameters, or the path or the bytes of a PNG that generate() made",
)

const resume = v.custom<string | Uint8Array>(
  (value) => (typeof value === 'string' && value.length > 0) || value instanceof Uint8Array,
  'must be the path or the bytes of a resume file',
)

const template = v.pipe(
  text(2, 1000),
  v.check((value) => value.split('{}').length === 2, 'must contain {} once, where the subject goes'),
)

const loraFile = object({ file: path, scale: v.optional(number(-10, 10), 1) })
const lora = v.lazy(
  (value): v.GenericSchema<string | v.InferInput<typeof loraFile>, v.InferOutput<typeof loraFile>> =>
    typeof value === 'object'
      ? loraFile
      : v.pipe(
          v.string('must be a path or { file, scale }'),
          path,
          v.transform((file) => ({ file, scale: 1 })),
        ),
)
const loras = v.pipe(v.array(lora, 'must be a list of LoRA files'), v.maxLength(16, 'must have at most 16 LoRA'))

/** A LoRA file, and how strongly it counts: 1 unless told otherwise. */
export type LoraOption = v.InferInput<typeof lora>

/** @internal The argument of `setLoras()`, as an object of options. */
export const lorasSchema = object({ loras })

/** Progress of {@link Personalizer.open}: bytes of a model that is fetched from the hub, then of weights read. */
export interface OpenProgress {
  phase: 'download' | 'load'
  done: number
  /** 0 while it is not known. */
  total: number
}

export const openSchema = object({
  /**
   * `'mini'` (embedded), a folder in the diffusers layout, a checkpoint of a single file (`.safetensors`, `.ckpt`), or
   * `'owner/name[@revision]'` on the Hugging Face hub.
   */
  model: v.optional(path, 'mini'),
  /** For a single file: a diffusers folder whose configs, tokenizer and scheduler hold. Default: what the tensors say. */
  config: v.optional(path),
  /** What the model predicts, where its files do not say so or are wrong. */
  predictionType: v.optional(oneOf(['epsilon', 'v_prediction', 'sample'])),
  /** LoRA to merge into the weights: paths, or `{ file, scale }`. Default none. */
  loras: v.optional(loras, []),
  /** Where to compute. `'auto'`: a GPU where driver, LibTorch and this package have CUDA, else the CPU. */
  device: v.optional(
    v.pipe(
      v.string("must be 'auto', 'cpu', 'cuda' or 'cuda:N'"),
      v.regex(/^(auto|cpu|cuda(:\d{1,3})?)$/, "must be 'auto', 'cpu', 'cuda' or 'cuda:N'"),
    ),
    'auto',
  ),
  /**
   * What the U-Net and the VAE compute in; in bfloat16 the text encoders' layers multiply too. `'auto'`: bfloat16 where
   * the CPU or GPU multiplies it natively.
   */
  dtype: v.optional(oneOf(['auto', 'float32', 'bfloat16', 'float16']), 'auto'),
  /** CPU threads, for the whole process; default: the physical cores. */
  threads: v.optional(integer(1, 1024)),
  /** Called while a model is fetched and while the weights are read. An error that it throws ends the opening. */
  onProgress: v.optional(
    v.custom<(progress: OpenProgress) => void>((value) => typeof value === 'function', 'must be a function'),
  ),
})

export const learnSchema = object({
  /** The photo: a path, an encoded picture, or RGB bytes. */
  image,
  /** The placeholder's name: `'alice'` is `<alice>` in prompts. Default `'subject'`. */
  name: v.optional(v.pipe(v.string(MUST_NAME), v.regex(NAME, MUST_NAME))),
  /** What the subject is, in a word that the model knows: `'person'`, `'dog'`, … */
  class: v.pipe(text(1, 64), v.trim(), v.minLength(1, 'must be a word')),
  /** Training steps. Default: the model's, else 600. */
  steps: v.optional(integer(1, 100_000)),
  /** Default: the model's, else 1e-4. */
  learningRate: v.optional(number(1e-8, 10)),
  /** Of the noise, the timesteps and the templates' order. Default 0. */
  seed: v.optional(seed),
  /** Samples a step. Default: the model's, else 1. */
  batch: v.optional(integer(1, 64)),
  /** Stages of the denoising, each with vectors of its own. Default 5. */
  stages: v.optional(integer(1, 10)),
  /** The attention loss, which keeps the subject's attention near its class word's. */
  attention: v.optional(
    object({
      /** Its weight against the reconstruction; 0 turns it off. Default: the model's, else 0.003. */
      weight: v.optional(number(0, 1000)),
      /** Downsampling levels whose cross-attention it looks at, 0 the finest. Default: the model's, else `[1, 2]`, `[2]` for SDXL. */
      levels: v.optional(levels),
    }),
  ),
  /** Which square of the photo, in its pixels after orientation. Default `'center'`. */
  crop: v.optional(crop),
  /** A picture, white where the subject is: restricts the reconstruction to it. */
  mask: v.optional(image),
  /** `'split'`: vectors of their own for K and for V; `'shared'`: one for both. Default `'split'`. */
  conditioning: v.optional(oneOf(['split', 'shared'])),
  /** `'attention'`: through the self-attention module; `'direct'`: the vectors themselves. Default: the model's, else `'attention'`. */
  parametrization: v.optional(oneOf(['attention', 'direct'])),
  /** Prompts to learn with, `{}` where the subject goes. Default: the model's, else the class's. */
  templates: v.optional(
    v.pipe(
      v.array(template, 'must be a list of prompts'),
      v.minLength(1, 'must not be empty'),
      v.maxLength(256, 'must have at most 256 prompts'),
    ),
  ),
  /** A resume file to go on from, bit for bit. Options left out take the values that it was written with. */
  resume: v.optional(resume),
  /**
   * Where to leave a resume file: every `every` steps (default 50), when cancelled, and when it fails.
   * Removed when the learning ends well.
   */
  checkpoint: v.optional(checkpoint),
})

const control = object({
  /** The ControlNet: a folder in the diffusers layout, a single file, or `'owner/name[@revision]'` on the hub. */
  model: path,
  /** What it follows (edges, a depth map, a pose): a path, an encoded picture, or RGB bytes. */
  image,
  /** How strongly. Default 1. */
  scale: v.optional(number(-10, 10), 1),
  /** The share of the steps after which it begins, 0 to 1. Default 0. */
  start: v.optional(number(0, 1), 0),
  /** The share of the steps after which it ends. Default 1. */
  end: v.optional(number(0, 1), 1),
})

export const generateSchema = object({
  /** What to draw; `<name>` stands for a subject. Needed, unless `like` has one. */
  prompt: v.optional(text(0, 10_000)),
  /** The subjects of the prompt. Every `<name>` in it must be one of these. Default none. */
  subjects: v.optional(
    v.pipe(
      v.array(v.instance(Subject, 'must be a Subject: from learn() or Subject.load()'), 'must be a list of subjects'),
      v.maxLength(75, 'must have at most 75 subjects'),
    ),
    [],
  ),
  /**
   * What to keep away from. Default empty; for SDXL models whose files say so none at all, which is not the same. Not
   * used where the guidance scale is at most 1.
   */
  negativePrompt: v.optional(text(0, 10_000)),
  /** Denoising steps. Default: the model's, else 30. */
  steps: v.optional(integer(1, 1000)),
  /** How strongly the prompt counts; at most 1: no guidance. Default: the model's, else 7.5. */
  guidanceScale: v.optional(number(0, 100)),
  /** Default: the one of the model's scheduler_config.json. */
  scheduler: v.optional(oneOf(SCHEDULERS)),
  /** Image k uses `seed + k`. */
  seed: v.optional(seed, 0),
  /** How many pictures. */
  count: v.optional(integer(1, 256), 1),
  /** Pictures computed at once; default: as many as fit in memory. The pictures do not depend on it. */
  batch: v.optional(integer(1, 256)),
  /**
   * In pixels, a multiple of the model's pixels per latent pixel (8 for SD). Default: the model's resolution; with
   * `image`, the size of that.
   */
  width: v.optional(integer(8, MAX_SIZE)),
  /** As `width`. */
  height: v.optional(integer(8, MAX_SIZE)),
  /** A picture to begin from in place of noise alone. */
  image: v.optional(image),
  /**
   * How much of `image` is done anew: the share of the steps that are taken, above 0 and at most 1. Default 0.8; with
   * `mask` 1.
   */
  strength: v.optional(strength),
  /** A picture of `image`'s shape, white where that is painted anew, black where it is kept. Default: all white. */
  mask: v.optional(image),
  /** Whether `(word:1.2)` in the prompts is a weight; else brackets are text. Default no. */
  promptWeights: v.optional(v.boolean('must be true or false'), false),
  /**
   * Whether words other than the subject get the states that they have when its class word stands in its place, so that
   * nothing of the subject goes into them. Not in a prompt with a subject that has no class word (another program's
   * embedding). Default: the model's, else no.
   */
  isolate: v.optional(v.boolean('must be true or false')),
  /** How far the spread of the guided output returns to that without guidance, 0 to 1. Default 0. */
  guidanceRescale: v.optional(number(0, 1), 0),
  /** ControlNets that take part, one or several at once. Default none. */
  control: v.optional(
    v.pipe(v.array(control, 'must be a list of { model, image }'), v.maxLength(8, 'must have at most 8 ControlNets')),
    [],
  ),
  /**
   * A picture that was drawn before: its `parameters`, or its PNG as a path or bytes. Every option that is left out is
   * as it was then, so that `{ like, subjects }` draws it again.
   */
  like: v.optional(like),
})

/** A ControlNet of {@link GenerateOptions}, as it was checked. */
export type Control = v.InferOutput<typeof control>

/** Options of {@link Personalizer.open}. */
export interface OpenOptions extends v.InferInput<typeof openSchema> {}
/** Options of {@link Personalizer.learn}. */
export interface LearnOptions extends v.InferInput<typeof learnSchema> {}
/** Options of {@link Personalizer.generate}. */
export interface GenerateOptions extends v.InferInput<typeof generateSchema> {}

/** Names that other programs use for an option of ours. */
const SYNONYMS: Record<string, string> = {
  cfg: 'guidanceScale',
  denoise: 'strength',
  denoisingStrength: 'strength',
  guidance: 'guidanceScale',
  guidance_rescale: 'guidanceRescale',
  init_image: 'image',
  instance: 'image',
  lambda: 'attention.weight',
  lr: 'learningRate',
  mask_image: 'mask',
  n: 'count',
  negative: 'negativePrompt',
  num_inference_steps: 'steps',
  numImages: 'count',
  photo: 'image',
  sampler: 'scheduler',
  signal: 'signal, in the second argument',
}

/**
 * Checks the options of a call.
 *
 * @throws SwapError `SWAP_OPTION_UNKNOWN` for a name that is none, with the nearest that is one;
 *   `SWAP_OPTION_INVALID` for a value out of range, naming the option, the range and the value.
 */
export function parseOptions<T extends v.GenericSchema>(schema: T, options: unknown, call: string): v.InferOutput<T> {
  const result = v.safeParse(schema, options)
  if (result.success) return result.output
  const unknown = result.issues.find((issue) => issue.type === 'strict_object' && issue.expected === 'never')
  const issue = unknown ?? result.issues[0]
  const keys = issue.path?.map((item) => item.key) ?? []
  const name = keys.map((key, index) => (typeof key === 'number' ? `[${key}]` : `${index ? '.' : ''}${key}`)).join('')
  if (unknown) {
    throw new SwapError('SWAP_OPTION_UNKNOWN', `${call} has no option "${name}"`, {
      hint: suggestion(String(keys.at(-1)), Object.keys(entriesAt(schema, issue.path?.slice(0, -1) ?? [], options))),
    })
  }
  if (name === '') throw invalidOption(`the options of ${call}`, issue.message, issue.input)
  if (issue.type === 'strict_object' && issue.expected !== 'Object') {
    const entry = entriesAt(schema, issue.path?.slice(0, -1) ?? [], options)[String(keys.at(-1))]
    const must = entry && v.safeParse(entry, undefined).issues?.[0].message
    throw new SwapError('SWAP_OPTION_INVALID', `option "${name}" of ${call} ${must}, but is missing`)
  }
  throw invalidOption(`option "${name}" of ${call}`, issue.message, issue.input)
}

/** The entries of the object schema at a path of issues. */
function entriesAt(schema: v.GenericSchema, path: readonly { key: unknown }[], input: unknown): v.ObjectEntries {
  const { entries, wrapped, getter } = schema as {
    entries?: v.ObjectEntries
    wrapped?: v.GenericSchema
    getter?: (input: unknown) => v.GenericSchema
  }
  if (wrapped) return entriesAt(wrapped, path, input)
  if (getter) return entriesAt(getter(input), path, input)
  const [first, ...rest] = path
  const next = entries?.[String(first?.key)] as v.GenericSchema | undefined
  if (first === undefined || next === undefined) return entries ?? {}
  return entriesAt(next, rest, (input as Record<string, unknown>)[String(first.key)])
}

/** The error for a value that only turns out wrong beside others, e.g. a width that the model cannot make. */
export function invalidOption(option: string, must: string, value: unknown, hint?: string): SwapError {
  return new SwapError('SWAP_OPTION_INVALID', `${option} ${must}, but is ${show(value)}`, { hint })
}

/** Checks the second argument of a call. */
export function parseCall(call: unknown, name: string): v.InferOutput<typeof callSchema> {
  return parseOptions(callSchema, call ?? {}, name)
}

const callSchema = object({
  signal: v.optional(v.custom<AbortSignal>((value) => value instanceof AbortSignal, 'must be an AbortSignal')),
  onWarning: v.optional(
    v.custom<(warning: string) => void>((value) => typeof value === 'function', 'must be a function'),
  ),
})

function show(value: unknown): string {
  const shown = inspect(value, { depth: 1, maxArrayLength: 6, maxStringLength: 60, breakLength: Infinity })
  return shown.length > 100 ? `${shown.slice(0, 97)}...` : shown
}

function suggestion(name: string, known: string[]): string {
  const synonym = Object.hasOwn(SYNONYMS, name) ? SYNONYMS[name] : undefined
  if (synonym !== undefined && (synonym.includes('signal') || known.includes(synonym.split('.')[0] ?? ''))) {
    return `did you mean ${synonym}?`
  }
  const [nearest] = known
    .map((candidate) => ({ candidate, distance: editDistance(name.toLowerCase(), candidate.toLowerCase()) }))
    .filter(
      ({ candidate, distance }) => distance <= Math.max(1, Math.ceil(Math.max(name.length, candidate.length) / 3)),
    )
    .sort((a, b) => a.distance - b.distance)
  return nearest ? `did you mean "${nearest.candidate}"?` : `the options are: ${known.join(', ')}`
}

/** Levenshtein's distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[b.length] ?? 0
}
