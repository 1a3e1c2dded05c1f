/** A learnt subject: the vectors that stand for it, stage by stage, and the file that keeps them. */
import {
  checkFormat,
  type Embedding,
  type EmbeddingFormat,
  readEmbedding,
  readTorchEmbedding,
  writeEmbedding,
} from './embedding/index.ts'
import { SwapError } from './errors.ts'
import { readFileLimited, safetensorsReason, writeFileAtomic } from './files.ts'
import { readSafetensors, writeSafetensors } from './model/safetensors.ts'
import type { NativeTensor, SubjectVectors } from './native.ts'
import { isTorchFile } from './pickle/index.ts'
import { NAME } from './subject_name.ts'

/** A file that is larger is none of ours: SDXL's largest subject has 5 MB. */
const MAX_BYTES = 64 * 2 ** 20
const FORMAT = 'swap-subject'
/** `kind` of a subject that was another program's embedding. */
const EMBEDDING = 'embedding'
/** The file's tensors, one K and one V for each text encoder. */
const TENSORS = [
  ['sefi.k', 'sefi.v'],
  ['sefi.k_g', 'sefi.v_g'],
] as const
/** The most characters of the file's texts: a model's name with a revision, and sixteen LoRA of long names, fit in. */
const LENGTHS = { class: 64, conditioning: 16, base: 512, base_fingerprint: 128, template: 1000, loras: 8192 }
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/g

/** How a subject was learnt. A subject from another program may lack any of it. */
export interface SubjectMetadata {
  /** The base model's name. */
  model?: string | undefined
  /** Of the base model's text encoders: their token embeddings and configuration. */
  fingerprint?: string | undefined
  /** The first of the prompts it was learnt with. */
  template?: string | undefined
  /** Steps that were done. */
  steps?: number | undefined
  learningRate?: number | undefined
  seed?: number | undefined
  /** Weight of the attention loss. */
  attentionWeight?: number | undefined
  conditioning?: 'split' | 'shared' | undefined
  /** The LoRA that the base model had: `name:scale`, with spaces between. */
  loras?: string | undefined
}

/** What a subject is written as. */
export interface ExportOptions {
  /** Left out: the subject's own file, whole. */
  format?: EmbeddingFormat | undefined
}

/** @internal What a subject is made of. */
export interface SubjectParts {
  name: string
  /** Undefined: none, as of a Textual Inversion file. */
  classWord: string | undefined
  vectors: SubjectVectors
  metadata: SubjectMetadata
}

/**
 * A subject that was learnt, for use in the prompts of any number of generations.
 *
 * Its file is a safetensors file with `sefi.k` and `sefi.v`, each `[stages, tokens, width]` in float32
 * (`sefi.k_g` and `sefi.v_g` for a second text encoder).
 */
export class Subject {
  /** `alice` stands for `<alice>` in prompts. */
  readonly name: string
  /** The word whose place it takes; undefined where it takes no word's (Textual Inversion files). */
  readonly classWord: string | undefined
  /** Stages of the denoising, each with vectors of its own. */
  readonly stages: number
  /** How many of the prompt's tokens it takes: as many as its class word, or as many vectors as its file has. */
  readonly tokens: number
  readonly metadata: Readonly<SubjectMetadata>
  readonly #vectors: SubjectVectors

  /** @internal Use `Personalizer.learn()` or {@link Subject.load}. */
  constructor({ name, classWord, vectors, metadata }: SubjectParts) {
    this.name = name
    this.classWord = classWord
    this.stages = vectors.stages
    this.tokens = vectors.tokens
    this.metadata = Object.freeze({ ...metadata })
    this.#vectors = vectors
  }

  /**
   * Reads a subject's file, or another program's Textual Inversion file as a subject: diffusers', AUTOMATIC1111's,
   * kohya's and OneTrainer's, as safetensors or as a pickle, of which nothing is run.
   *
   * @param source its path, or its bytes
   * @throws SwapError `SWAP_SUBJECT_INVALID`: it is no subject, or a damaged one; `SWAP_SUBJECT_EMBEDDING`: an embedding
   *   of a kind that is not read; `SWAP_SUBJECT_TOO_LARGE`; `SWAP_FILE_PICKLE…`; `SWAP_FILE_NOT_FOUND` and the like
   */
  static async load(source: string | Uint8Array): Promise<Subject> {
    if (typeof source === 'string' && source !== '') return await parse(await readSubjectFile(source), source)
    if (source instanceof Uint8Array) return await parse(source)
    throw new SwapError('SWAP_OPTION_INVALID', 'Subject.load() must be given a path or a Uint8Array')
  }

  /**
   * The bytes of its file, or of a Textual Inversion file for other programs.
   *
   * @throws SwapError `SWAP_OPTION_INVALID`
   */
  toBuffer(options: ExportOptions = {}): Buffer {
    const { format } = options
    const bytes = format === undefined ? this.#whole() : this.#embedding(format, 'toBuffer()')
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  #embedding(format: EmbeddingFormat, call: string): Uint8Array {
    checkFormat(format, call)
    return writeEmbedding(this.name, this.#vectors, format)
  }

  #whole(): Uint8Array {
    const { stages, tokens, k, v } = this.#vectors
    const tensors: NativeTensor[] = k.flatMap((keys, encoder) => {
      const shape = [stages, tokens, keys.length / (stages * tokens)]
      const [nameK, nameV] = TENSORS[encoder]!
      return [
        { name: nameK, shape, data: keys },
        { name: nameV, shape, data: v[encoder]! },
      ]
    })
    return writeSafetensors(tensors, toStrings(this))
  }

  /**
   * Writes its file, whole or not at all.
   *
   * @throws SwapError `SWAP_FILE_PERMISSION`, `SWAP_FILE_DISK_FULL` and the like
   */
  async save(path: string): Promise<void> {
    if (typeof path !== 'string' || path === '') {
      throw new SwapError('SWAP_OPTION_INVALID', 'Subject.save() must be given a path')
    }
    await writeFileAtomic(path, this.toBuffer())
  }

  /**
   * Writes a Textual Inversion file for other programs. They have one vector a token where a subject has one for every
   * stage and for K and V: the mean of these is what is written, and pictures are the less like the subject for it.
   *
   * @throws SwapError `SWAP_OPTION_INVALID`, `SWAP_FILE_PERMISSION`, `SWAP_FILE_DISK_FULL` and the like
   */
  async export(path: string, options: Required<ExportOptions>): Promise<void> {
    if (typeof path !== 'string' || path === '') {
      throw new SwapError('SWAP_OPTION_INVALID', 'Subject.export() must be given a path')
    }
    await writeFileAtomic(path, this.#embedding(options?.format, 'Subject.export()'))
  }

  /** @internal What the engine gets. */
  get vectors(): SubjectVectors {
    return this.#vectors
  }

  /** Floats a vector, for each text encoder. */
  get widths(): number[] {
    return this.#vectors.k.map((keys) => keys.length / (this.stages * this.tokens))
  }

  toJSON(): object {
    const { name, classWord, stages, tokens, widths, metadata } = this
    return { name, classWord, stages, tokens, widths, metadata }
  }
}

async function readSubjectFile(path: string): Promise<Uint8Array> {
  try {
    return await readFileLimited(path, MAX_BYTES)
  } catch (error) {
    if (error instanceof SwapError && error.code === 'SWAP_FILE_TOO_LARGE') throw tooLarge(`"${path}"`, error)
    throw error
  }
}

async function parse(bytes: Uint8Array, path?: string): Promise<Subject> {
  const what = path === undefined ? 'the buffer' : `"${path}"`
  const source = path ?? 'data'
  if (bytes.byteLength > MAX_BYTES) throw tooLarge(what)
  if (isTorchFile(bytes)) {
    const embedding = await readTorchEmbedding(bytes, source)
    if (embedding) return fromEmbedding(embedding)
    throw invalid(what, 'the file of PyTorch holds no embedding')
  }
  let file: ReturnType<typeof readSafetensors>
  try {
    file = readSafetensors(bytes)
  } catch (cause) {
    throw invalid(what, safetensorsReason(cause), cause)
  }
  const tensors = new Map(file.tensors.map((tensor) => [tensor.name, tensor]))
  const ours = file.metadata.format === FORMAT || TENSORS.flat().some((name) => tensors.has(name))
  const embedding = ours ? undefined : readEmbedding(file.tensors, source)
  if (embedding) return fromEmbedding(embedding)
  const vectors = readVectors(tensors, what)
  const { name, classWord, metadata } = fromStrings(new Map(Object.entries(file.metadata)), what)
  if (classWord === undefined) vectors.inPooled = true
  return new Subject({ name, classWord, vectors, metadata })
}

/** One stage, the same vectors for K and V, and no word whose place they take. */
function fromEmbedding({ name, tokens, vectors, steps, model }: Embedding): Subject {
  return new Subject({
    name,
    classWord: undefined,
    vectors: { stages: 1, tokens, k: vectors, v: vectors, inPooled: true },
    metadata: { conditioning: 'shared', steps, model },
  })
}

function readVectors(tensors: Map<string, NativeTensor>, what: string): SubjectVectors {
  const vectors: SubjectVectors = { stages: 0, tokens: 0, k: [], v: [] }
  for (const [nameK, nameV] of TENSORS) {
    const [k, v] = [tensors.get(nameK), tensors.get(nameV)]
    if (!k && !v && vectors.k.length > 0) break
    if (!k || !v) throw invalid(what, `it has no tensor "${k ? nameV : nameK}"`)
    for (const tensor of [k, v]) checkTensor(tensor, vectors, what)
    if (k.shape.join() !== v.shape.join()) {
      throw invalid(what, `"${nameK}" has the shape [${k.shape}] and "${nameV}" [${v.shape}]`)
    }
    vectors.k.push(k.data)
    vectors.v.push(v.data)
  }
  return vectors
}

/** Shapes are compared with those read before; the first tensor sets them. */
function checkTensor({ name, shape, data }: NativeTensor, vectors: SubjectVectors, what: string): void {
  const [stages = 0, tokens = 0, width = 0] = shape
  if (shape.length !== 3 || width < 1 || width > 65_536) {
    throw invalid(what, `"${name}" has the shape [${shape}], not [stages, tokens, width]`)
  }
  if (stages < 1 || stages > 10) throw invalid(what, `"${name}" has ${stages} stages, not 1 to 10`)
  if (tokens < 1 || tokens > 75) throw invalid(what, `"${name}" has ${tokens} tokens, not 1 to 75`)
  if (vectors.stages !== 0 && (stages !== vectors.stages || tokens !== vectors.tokens)) {
    throw invalid(what, `"${name}" has the shape [${shape}], not [${vectors.stages}, ${vectors.tokens}, width]`)
  }
  const bad = data.findIndex((value) => !Number.isFinite(value))
  if (bad >= 0) throw invalid(what, `"${name}" has the value ${data[bad]} at ${bad}`)
  vectors.stages = stages
  vectors.tokens = tokens
}

/** The file's metadata: safetensors knows strings only. Texts are what {@link words} takes, wherever they came from. */
function toStrings({ name, classWord, metadata }: Subject): Record<string, string> {
  const kind = classWord === undefined ? { kind: EMBEDDING } : { class: classWord }
  const entries = { format: FORMAT, version: 1, name, ...kind, ...rename(metadata) }
  return Object.fromEntries(
    Object.entries(entries)
      .filter(([, value]) => value !== undefined)
      .map(([key, value]) => [key, key in LENGTHS ? line(String(value), key as keyof typeof LENGTHS) : String(value)]),
  )
}

function line(text: string, key: keyof typeof LENGTHS): string {
  return text.slice(0, LENGTHS[key]).replace(CONTROL, ' ')
}

function rename(metadata: SubjectMetadata): Record<string, string | number | undefined> {
  return {
    base: metadata.model,
    base_fingerprint: metadata.fingerprint,
    template: metadata.template,
    steps: metadata.steps,
    learning_rate: metadata.learningRate,
    seed: metadata.seed,
    lambda: metadata.attentionWeight,
    conditioning: metadata.conditioning,
    loras: metadata.loras,
  }
}

function fromStrings(strings: Map<string, string>, what: string): Omit<SubjectParts, 'vectors'> {
  const version = strings.get('version') ?? '1'
  if (version !== '1') throw invalid(what, `its format has the version ${quote(version)}; this release reads 1`)
  const name = strings.get('name')
  if (name === undefined || !NAME.test(name)) throw invalid(what, `its metadata has the name ${quote(name)}`)
  const classWord = words(strings, 'class', what)
  if (!classWord && strings.get('kind') !== EMBEDDING) throw invalid(what, 'its metadata has no class word')
  const conditioning = words(strings, 'conditioning', what)
  if (conditioning !== undefined && conditioning !== 'split' && conditioning !== 'shared') {
    throw invalid(what, `its metadata has the conditioning ${quote(conditioning)}`)
  }
  const metadata: SubjectMetadata = {
    model: words(strings, 'base', what),
    fingerprint: words(strings, 'base_fingerprint', what),
    template: words(strings, 'template', what),
    steps: quantity(strings, 'steps', what),
    learningRate: quantity(strings, 'learning_rate', what),
    seed: quantity(strings, 'seed', what),
    attentionWeight: quantity(strings, 'lambda', what),
    conditioning,
    loras: words(strings, 'loras', what),
  }
  return { name, classWord: classWord || undefined, metadata }
}

/** A line of text: what is read here is shown on terminals and written into pictures. */
function words(strings: Map<string, string>, key: keyof typeof LENGTHS, what: string): string | undefined {
  const value = strings.get(key)
  if (value !== undefined && (value.length > LENGTHS[key] || value.search(CONTROL) >= 0)) {
    throw invalid(what, `its metadata has the ${key} ${quote(value)}`)
  }
  return value
}

function quantity(strings: Map<string, string>, key: string, what: string): number | undefined {
  const value = strings.get(key)
  if (value === undefined) return undefined
  const parsed = /^\d/.test(value) ? Number(value) : Number.NaN
  if (!Number.isFinite(parsed)) throw invalid(what, `its metadata has the ${key} ${quote(value)}`)
  return parsed
}

function quote(value: string | undefined): string {
  return value === undefined ? 'left out' : JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}…` : value)
}

function invalid(what: string, why: string, cause?: unknown): SwapError {
  return new SwapError('SWAP_SUBJECT_INVALID', `${what} is not a subject: ${why}`, {
    hint: 'a subject is what learn() made and save() wrote',
    cause,
  })
}

function tooLarge(what: string, cause?: unknown): SwapError {
  return new SwapError('SWAP_SUBJECT_TOO_LARGE', `${what} is no subject: it has more than ${MAX_BYTES} bytes`, {
    hint: 'a subject has some 30 KB; is it a model?',
    cause,
  })
}
