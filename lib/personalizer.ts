/** The door to everything: one base model in memory, which learns subjects and draws them. */
import { addonFolder, engineOverride, loadAddon } from './addon.ts'
import { Controls } from './controls.ts'
import { chooseEngine, type EngineChoice, hasGpuDriver, wantedFlavour } from './device.ts'
import { DisposedError, SwapError } from './errors.ts'
import { type GenerateEvent, generate } from './generate.ts'
import type { PullOptions } from './hub/index.ts'
import type { GeneratedImage } from './image/index.ts'
import { type CallOptions, Job, type JobContext } from './job.ts'
import { type LearnEvent, learn } from './learn.ts'
import type { LibTorch } from './libtorch/index.ts'
import { changeLoras, load, prepareLoras, withLoras } from './loras.ts'
import type { Model, ModelLayout, SingleFileOptions } from './model/index.ts'
import type { LoraInfo } from './model/lora.ts'
import type { NativeBinding, NativeEngine } from './native.ts'
import {
  type GenerateOptions,
  type LearnOptions,
  type LoraOption,
  lorasSchema,
  type OpenOptions,
  type OpenProgress,
  openSchema,
  parseCall,
  parseOptions,
} from './options.ts'
import type { Session } from './session.ts'
import type { Subject } from './subject.ts'
import { fromNative, runTask } from './task.ts'

/** What a {@link Personalizer} is and runs on. Plain and JSON-safe. */
export interface PersonalizerInfo {
  /** The base model's name and folder. */
  readonly model: string
  readonly path: string
  readonly family: Model['family']
  /** Pixels a side that the model was trained at: of the pictures that it makes unless told otherwise. */
  readonly resolution: number
  /** Changes with the text encoders, so it tells whether a subject belongs to this model. */
  readonly fingerprint: string
  readonly device: string
  readonly dtype: 'float32' | 'bfloat16' | 'float16'
  readonly threads: number
  /** Of the base model. */
  readonly parameters: number
  readonly weightBytes: number
  /** The version that is loaded. */
  readonly libtorch: string
  /** Which make of the split cross-attention is used. */
  readonly attention: string
  readonly cpuFeatures: string
  /** What `learn` and `generate` use here when not told otherwise. */
  readonly defaults: Model['defaults']
  /** What is merged into its weights. */
  readonly loras: readonly LoraInfo[]
  /** What is worth knowing about the model though it opened. */
  readonly warnings: readonly string[]
}

/** @internal What opening needs from the other rooms; tests put their own in place. */
export interface OpenParts {
  readLayout(model: string, options?: PullOptions & SingleFileOptions): Promise<ModelLayout>
  /** `prefer`: the flavour to take where there are both. */
  findLibtorch(prefer: 'cpu' | 'cuda'): Promise<LibTorch>
  loadAddon(): NativeBinding
  addonFolder(): string
  hasGpuDriver(): boolean
}

const PARTS: OpenParts = {
  readLayout: async (model, options) => {
    const { path, name } = await (await import('./hub/index.ts')).locateModel(model, options)
    const read = await (await import('./model/index.ts')).readLayout(path, options)
    return name === undefined ? read : { ...read, name }
  },
  findLibtorch: async (prefer) => (await import('./libtorch/index.ts')).findLibtorch({ prefer }),
  loadAddon,
  addonFolder,
  hasGpuDriver,
}

/** Set by the class below: its constructor is private. */
let construct: (session: Session, info: PersonalizerInfo) => Personalizer

/**
 * A base model that was opened.
 *
 * @example
 * const personalizer = await Personalizer.open({ model: 'mini' })
 * try {
 *   const alice = await personalizer.learn({ image: 'me.jpg', name: 'alice', class: 'person' })
 *   const [picture] = await personalizer.generate({ prompt: 'a photo of <alice> at the beach', subjects: [alice] })
 *   await picture?.save('alice.png')
 * } finally {
 *   await personalizer.close()
 * }
 */
export class Personalizer implements AsyncDisposable {
  readonly #session: Session
  readonly #jobs = new Set<Job<unknown, unknown>>()
  #info: PersonalizerInfo
  /** Resolves when the weights are as the last setLoras() left them. */
  #gate: Promise<unknown> | undefined
  #closed: Promise<void> | undefined

  static {
    construct = (session, info) => new Personalizer(session, info)
  }

  private constructor(session: Session, info: PersonalizerInfo) {
    if (session === undefined) throw new SwapError('SWAP_OPTION_INVALID', 'use await Personalizer.open()')
    this.#session = session
    this.#info = info
  }

  /**
   * Reads a base model into memory.
   *
   * @throws SwapError `SWAP_LIBTORCH_MISSING` and `SWAP_LIBTORCH_VERSION` (run `npx swap setup`), `SWAP_MODEL_…`,
   *   `SWAP_HUB_…`, `SWAP_ENGINE_…`, `SWAP_OPTION_…`; or the signal's reason
   */
  static async open(options: OpenOptions = {}, call: CallOptions = {}): Promise<Personalizer> {
    return openWith(PARTS, options, call)
  }

  /** What was opened, and on what it runs. Readable after `close()` too. */
  get info(): PersonalizerInfo {
    return this.#info
  }

  /**
   * Learns a subject from one photo.
   *
   * @returns a job: await it for the subject, iterate it for the steps
   * @throws SwapError `SWAP_OPTION_…`, `SWAP_IMAGE_…`, `SWAP_PROMPT_…`, `SWAP_RESUME_…`, `SWAP_NUMERIC_…`; or the
   *   signal's reason; the job rejects, the call itself never throws
   */
  learn(options: LearnOptions, call: CallOptions = {}): Job<Subject, LearnEvent> {
    return this.#start('learn()', call, (context) => learn(this.#session, options, context))
  }

  /**
   * Draws pictures. Asked for while a learning runs, it goes first.
   *
   * @returns a job: await it for the pictures, iterate it for the steps
   * @throws SwapError `SWAP_OPTION_…`, `SWAP_PROMPT_…`, `SWAP_SUBJECT_…`, `SWAP_SCHEDULER_…`, `SWAP_CONTROL_…`; or the
   *   signal's reason; the job rejects, the call itself never throws
   */
  generate(options: GenerateOptions, call: CallOptions = {}): Job<GeneratedImage[], GenerateEvent> {
    return this.#start('generate()', call, (context) => generate(this.#session, options, context))
  }

  /**
   * Gives a ControlNet's memory back. One that `generate` uses is read once and stays, until it is released or the
   * personalizer is closed. Nothing happens where it is not in memory.
   *
   * @param control what `generate` was given as `model`
   */
  async release(control: string): Promise<void> {
    if (this.#closed) throw new DisposedError('the personalizer')
    await this.#session.controls.release(control)
  }

  /**
   * Reads the weights again, with other LoRA in the place of those before; an empty list takes them all away.
   *
   * Jobs that were started before are done first; later ones wait. When it fails, or is cancelled, the weights are
   * read as they were.
   *
   * @returns a job: await it for what is merged now, iterate it for the progress
   * @throws SwapError `SWAP_OPTION_…`, `SWAP_LORA_…`, `SWAP_TENSOR_…`, `SWAP_FILE_…`; `SWAP_LORA_LOST` where the
   *   weights could not be read again as they were: the personalizer is closed then; or the signal's reason
   */
  setLoras(loras: readonly LoraOption[], call: CallOptions = {}): Job<readonly LoraInfo[], OpenProgress> {
    const before = [...this.#jobs]
    const job = this.#start<readonly LoraInfo[], OpenProgress>('setLoras()', call, async ({ signal, emit }) => {
      const session = this.#session
      const prepared = await prepareLoras(session, parseOptions(lorasSchema, { loras }, 'setLoras()').loras)
      await either(Promise.allSettled(before), signal)
      try {
        await changeLoras(session, prepared, signal, emit)
      } catch (error) {
        if (error instanceof SwapError && error.code === 'SWAP_LORA_LOST') {
          // Not one of the jobs that closing cancels: it says itself what happened.
          this.#jobs.delete(job)
          void this.close()
        }
        throw error
      }
      this.#info = Object.freeze({ ...this.#info, loras: prepared.files })
      return prepared.files
    })
    this.#gate = Promise.allSettled([job])
    return job
  }

  #start<T, E>(name: string, call: CallOptions, work: (context: JobContext<E>) => Promise<T>): Job<T, E> {
    let checked: CallOptions = {}
    let refusal: unknown
    try {
      if (this.#closed) throw new DisposedError('the personalizer')
      checked = parseCall(call, name)
    } catch (error) {
      refusal = error
    }
    const gate = this.#gate
    const gated = async (context: JobContext<E>): Promise<T> => {
      if (gate) await either(gate, context.signal)
      return await work(context)
    }
    const job = new Job<T, E>(refusal === undefined ? gated : () => Promise.reject(refusal), checked)
    this.#jobs.add(job)
    const forget = (): void => void this.#jobs.delete(job)
    job.then(forget, forget)
    return job
  }

  /**
   * Gives the memory back: running jobs are cancelled and reject with a `DisposedError`. Resolves when it is done;
   * may be called any number of times.
   */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    const jobs = [...this.#jobs]
    for (const job of jobs) job.cancel(new DisposedError('the personalizer'))
    await Promise.all([this.#session.engine.close(), Promise.allSettled(jobs)])
  }

  /** `close()`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** Waits for a promise that never rejects, unless the signal is aborted before. */
async function either(promise: Promise<unknown>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  let stop = (): void => {}
  const aborted = new Promise<void>((resolve) => {
    stop = resolve
    signal.addEventListener('abort', stop, { once: true })
  })
  await Promise.race([promise, aborted])
  signal.removeEventListener('abort', stop)
  signal.throwIfAborted()
}

/** @internal `Personalizer.open()` with its parts given. */
export async function openWith(parts: OpenParts, options: OpenOptions, call: CallOptions): Promise<Personalizer> {
  const parsed = parseOptions(openSchema, options, 'open()')
  const checked = parseCall(call, 'open()')
  return await new Job<Personalizer, never>((context) => open(parts, parsed, context), checked)
}

type Options = ReturnType<typeof parseOpen>
const parseOpen = (given: unknown) => parseOptions(openSchema, given, 'open()')

async function open(parts: OpenParts, options: Options, { signal }: JobContext<never>): Promise<Personalizer> {
  // What the caller's own function throws ends the opening.
  const failure = new AbortController()
  const report = (progress: OpenProgress): void => {
    if (failure.signal.aborted) return
    try {
      options.onProgress?.(progress)
    } catch (error) {
      failure.abort(error)
    }
  }
  const both = AbortSignal.any([signal, failure.signal])
  const variant = options.dtype === 'bfloat16' || options.dtype === 'float16' ? 'fp16' : 'full'
  const { config, predictionType } = options
  const { rest, ...layout } = await parts.readLayout(options.model, {
    config,
    predictionType,
    variant,
    signal: both,
    onProgress: report,
  })
  both.throwIfAborted()
  const loras = await (await import('./model/lora.ts')).readLoras(layout, options.loras)
  both.throwIfAborted()
  const gpu = parts.hasGpuDriver()
  const libtorch = engineOverride() ? undefined : await parts.findLibtorch(wantedFlavour(options.device, gpu))
  signal.throwIfAborted()
  const binding = parts.loadAddon()
  const choices = chooseEngine(options.device, libtorch, parts.addonFolder(), gpu)
  // JavaScript's part, while other threads open the libraries and read the weights. It cannot be ended, but must not go
  // on behind an error; what goes wrong in it ends the loading.
  const completing = rest()
  const fail = (error: unknown): void => failure.abort(error)
  completing.catch(fail)
  let engine: NativeEngine | undefined
  try {
    const created = await createEngine(binding, choices, both)
    engine = created.engine
    const request = {
      spec: layout.spec,
      tensors: layout.tensors,
      device: created.device,
      dtype: options.dtype,
      threads: options.threads ?? 0,
    }
    const loading = runTask(() => load(created.engine, withLoras(request, loras), report), both)
    loading.catch(fail)
    await Promise.allSettled([loading, completing])
    both.throwIfAborted()
    const [engineInfo, rested] = await Promise.all([loading, completing])
    const model: Model = { ...layout, ...rested }
    const info = {
      model: model.name,
      path: model.path,
      family: model.family,
      resolution: model.resolution,
      fingerprint: model.fingerprint,
      ...engineInfo,
      defaults: model.defaults,
      loras: loras.files,
      warnings: [...model.warnings],
    }
    const controls = new Controls(model, engine, engineInfo.dtype)
    return construct({ model, engine, engineInfo, controls, request, loras }, Object.freeze(info))
  } catch (error) {
    // A cancel goes before a failure; of those the first counts.
    fail(error)
    await Promise.allSettled([completing, engine?.close()])
    signal.throwIfAborted()
    throw failure.signal.reason
  }
}

/** The first choice that can be opened. */
async function createEngine(
  binding: NativeBinding,
  choices: EngineChoice[],
  signal: AbortSignal,
): Promise<{ engine: NativeEngine; device: string }> {
  for (const [i, { device, ...paths }] of choices.entries()) {
    try {
      await binding.openLibraries(paths)
      signal.throwIfAborted()
      return { engine: binding.createEngine(paths), device }
    } catch (error) {
      signal.throwIfAborted()
      if (i + 1 === choices.length) throw fromNative(error)
    }
  }
  throw new SwapError('SWAP_ENGINE_MISSING', 'there is no engine to open')
}
