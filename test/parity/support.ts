/** The road that parity tests take: reference numbers from Python, the same inputs through the engine, a comparison. */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test } from 'vitest'
import { addonFolder, enginePath, loadAddon } from '../../lib/addon.ts'
import { findLibtorch } from '../../lib/libtorch/index.ts'
import { withLoras } from '../../lib/loras.ts'
import { readControl } from '../../lib/model/control.ts'
import { type Model, readModel, type SingleFileOptions } from '../../lib/model/index.ts'
import { type LoraFile, readLoras } from '../../lib/model/lora.ts'
import { readSafetensors } from '../../lib/model/safetensors.ts'
import type { EvaluateRequest, NativeEngine, NativeImage, NativeTensor } from '../../lib/native.ts'
import { packageRoot } from '../../lib/paths.ts'

const root = packageRoot()
const scripts = join(root, 'tools', 'reference')

/** An interpreter with diffusers: `SWAP_PYTHON`, else the checkout's virtual environment; undefined: none. */
export const python = ((): string | undefined => {
  const chosen = process.env.SWAP_PYTHON
  if (chosen) return chosen
  const local = join(root, '.cache', 'venv', 'bin', 'python')
  return existsSync(local) ? local : undefined
})()

/** `describe` where reference numbers can be had, else a visible skip. */
export const describeParity = python
  ? describe
  : (name: string, _body: () => void): void => {
      console.warn(`skipped: ${name}: no Python with diffusers; npm test makes one, or set SWAP_PYTHON`)
      describe.skip(`${name} (no Python with diffusers)`, () => test('is compared', () => {}))
    }

/** What one script of tools/reference wrote. */
export interface Reference {
  /** The script's own files. */
  folder: string
  /** Paths of its safetensors files, sorted. */
  files: string[]
  /** The folder of a model by its name. */
  model(name: string): string
}

/**
 * Runs `tools/reference/<script>.py`, unless it already ran with these sources; nothing without Python.
 *
 * Everything lands in `.cache/parity`, under a hash of all the scripts and of the embedded model.
 */
export async function reference(
  script:
    | 'outputs'
    | 'prompt_states'
    | 'gradients'
    | 'pictures'
    | 'beginnings'
    | 'guidance'
    | 'prompts'
    | 'subjects'
    | 'trajectories'
    | 'controls'
    | 'single_files'
    | 'textual_inversion'
    | 'loras',
): Promise<Reference> {
  const folder = join(root, '.cache', 'parity', sourcesHash(), script)
  const models = join(folder, '..', 'models')
  const found = (): Reference => ({
    folder,
    files: existsSync(folder)
      ? readdirSync(folder)
          .filter((name) => name.endsWith('.safetensors'))
          .sort()
          .map((name) => join(folder, name))
      : [],
    model: (name) => (name === 'mini' ? 'mini' : join(models, name)),
  })
  if (!python) return found()
  const done = join(folder, 'done')
  if (!existsSync(done)) {
    await rm(folder, { recursive: true, force: true })
    await mkdir(folder, { recursive: true })
    await removeOlder(join(root, '.cache', 'parity'))
    await run(python, [join(scripts, `${script}.py`), '--models', models, '--out', folder])
    await writeFile(done, '')
  }
  return found()
}

/** Numbers of other sources are of no use any more. */
async function removeOlder(cache: string): Promise<void> {
  for (const name of readdirSync(cache)) {
    if (name !== sourcesHash()) await rm(join(cache, name), { recursive: true, force: true })
  }
}

function sourcesHash(): string {
  const hash = createHash('sha256')
  for (const name of readdirSync(scripts).sort()) {
    if (/\.(py|txt)$/.test(name)) hash.update(name).update(readFileSync(join(scripts, name)))
  }
  for (const part of ['text_encoder/model', 'unet/diffusion_pytorch_model', 'vae/diffusion_pytorch_model']) {
    hash.update(readFileSync(join(root, 'models', 'mini', `${part}.safetensors`)))
  }
  return hash.digest('hex').slice(0, 16)
}

function run(program: string, parameters: string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    // Small models gain nothing from a second thread.
    const env = { ...process.env, OMP_NUM_THREADS: '1' }
    const child = spawn(program, parameters, { stdio: ['ignore', 'inherit', 'pipe'], env })
    let complaints = ''
    child.stderr.on('data', (chunk: Buffer) => {
      complaints = (complaints + chunk).slice(-4000)
    })
    child.on('error', reject)
    child.on('close', (code) => {
      if (code === 0) resolve()
      else reject(new Error(`${program} ${parameters[0]} ended with ${code}:\n${complaints}`))
    })
  })
}

/** A safetensors file by name. */
export class Tensors {
  readonly metadata: Record<string, string>
  readonly all: readonly NativeTensor[]

  private constructor(metadata: Record<string, string>, all: NativeTensor[]) {
    this.metadata = metadata
    this.all = all
  }

  static async read(path: string): Promise<Tensors> {
    const { metadata, tensors } = readSafetensors(await readFile(path), path)
    return new Tensors(metadata, tensors)
  }

  get(name: string): NativeTensor {
    const tensor = this.all.find((candidate) => candidate.name === name)
    if (!tensor) throw new Error(`no tensor ${name}`)
    return tensor
  }

  /** The tensors under a prefix, without it. */
  under(prefix: string): NativeTensor[] {
    return this.all
      .filter((tensor) => tensor.name.startsWith(prefix))
      .map((tensor) => ({ ...tensor, name: tensor.name.slice(prefix.length) }))
  }

  /** A tensor under another name. */
  as(name: string, given: string): NativeTensor {
    return { ...this.get(name), name: given }
  }
}

/** A model on an engine of its own. */
export class Opened {
  readonly model: Model
  readonly engine: NativeEngine

  private constructor(model: Model, engine: NativeEngine) {
    this.model = model
    this.engine = engine
  }

  static async open(
    folder: string,
    dtype: 'float32' | 'bfloat16' = 'float32',
    options: SingleFileOptions & { loras?: LoraFile[] } = {},
  ): Promise<Opened> {
    const model = await readModel(folder, options)
    const loras = await readLoras(model, options.loras ?? [])
    const { libraries } = await findLibtorch()
    const engine = loadAddon().createEngine({ libraries, engine: enginePath(addonFolder(), 'cpu') })
    // Two threads compute a small model's batch in shares, one computes it as a whole.
    const threads = dtype === 'float32' ? 2 : 1
    const request = { spec: model.spec, tensors: model.tensors, device: 'cpu', dtype, threads } as const
    await engine.load(withLoras(request, loras), () => {}).promise
    return new Opened(model, engine)
  }

  /** Runs one op; the outputs by name. */
  async evaluate(request: EvaluateRequest): Promise<(name: string) => Float32Array> {
    const { outputs } = await this.engine.evaluate(request, () => {}).promise
    return (name) => {
      const tensor = outputs.find((candidate) => candidate.name === name)
      if (!tensor) throw new Error(`${request.op} gave no ${name}, but ${outputs.map((output) => output.name)}`)
      return tensor.data
    }
  }

  /** Attaches the ControlNet in a folder under a name; the number of its parameters. */
  async attach(name: string, folder: string): Promise<number> {
    const { spec, tensors, warnings } = await readControl(folder, this.model)
    if (warnings.length > 0) throw new Error(warnings.join('; '))
    return (await this.engine.attach({ name, spec, tensors }, () => {}).promise).parameters
  }

  close(): Promise<void> {
    return this.engine.close()
  }
}

/** Calls `use` with the model's engine and closes it. */
export async function withEngine(
  folder: string,
  dtype: 'float32' | 'bfloat16',
  use: (opened: Opened) => Promise<void>,
): Promise<void> {
  const opened = await Opened.open(folder, dtype)
  try {
    await use(opened)
  } finally {
    await opened.close()
  }
}

function pairs(actual: Float32Array, expected: Float32Array): void {
  if (actual.length !== expected.length) throw new Error(`${actual.length} numbers for ${expected.length}`)
}

/** The share of values that lie more than 1/255 off; both in 0..255. */
export function shareOff(images: readonly NativeImage[], expected: Float32Array): number {
  const values = images.flatMap(({ data }) => [...data])
  if (values.length !== expected.length) throw new Error(`${values.length} values for ${expected.length}`)
  return values.filter((value, i) => Math.abs(value - expected[i]!) > 1).length / values.length
}

/** max |a - b| / max |b|; NaN where any number is. */
export function relativeError(actual: Float32Array, expected: Float32Array): number {
  return largestDifference(actual, expected) / largest(expected)
}

/** max |a - b|. */
export function largestDifference(actual: Float32Array, expected: Float32Array): number {
  pairs(actual, expected)
  return actual.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i]!)), 0)
}

/** max |a|. */
export function largest(values: Float32Array): number {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
}

/** The root of the mean squared difference. */
export function deviation(actual: Float32Array, expected: Float32Array): number {
  pairs(actual, expected)
  return Math.sqrt(actual.reduce((sum, value, i) => sum + (value - expected[i]!) ** 2, 0) / actual.length)
}

/** The cosine of the angle between two vectors. */
export function cosine(a: Float32Array, b: Float32Array): number {
  pairs(a, b)
  const dot = (x: Float32Array, y: Float32Array): number => x.reduce((sum, value, i) => sum + value * y[i]!, 0)
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))
}

/** Several arrays as one. */
export function concatenate(arrays: readonly Float32Array[]): Float32Array {
  const whole = new Float32Array(arrays.reduce((sum, array) => sum + array.length, 0))
  let offset = 0
  for (const array of arrays) {
    whole.set(array, offset)
    offset += array.length
  }
  return whole
}
