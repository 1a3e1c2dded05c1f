/** The ControlNets of one personalizer: attached to its engine when they are first used, and kept until released. */
import { readdir, realpath, stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import type { Variant } from './hub/plan.ts'
import type { Model } from './model/index.ts'
import type { ControlImage, EngineInfo, NativeEngine, NativeEvent } from './native.ts'
import { type Control, invalidOption } from './options.ts'
import { runTask } from './task.ts'

/** What is said while nets are read. */
export interface AttachContext {
  readonly signal: AbortSignal
  warn(message: string): void
  /** Bytes of a net that were fetched, or read. */
  progress(phase: 'download' | 'load', done: number, total: number): void
}

export class Controls {
  readonly #model: Model
  readonly #engine: NativeEngine
  readonly #variant: Variant
  /** The state of the files of what is attached, by real path: the name that the engine knows it under. */
  readonly #attached = new Map<string, string>()
  /** Real paths by the words that nets were asked for with. */
  readonly #names = new Map<string, string>()
  /** The end of the queue: nets come and go one after another. */
  #last: Promise<void> = Promise.resolve()

  /** @param dtype what is computed in: where half precision does, no more is fetched */
  constructor(model: Model, engine: NativeEngine, dtype: EngineInfo['dtype']) {
    this.#model = model
    this.#engine = engine
    this.#variant = dtype === 'float32' ? 'full' : 'fp16'
  }

  /**
   * Sees to it that these nets are attached as their files are now, then calls `start` with their names. Nothing is
   * attached or released until `start` has returned, so what it hands to the engine finds its nets.
   *
   * @returns what `start` gave; in an object, for a promise must not be awaited here: the next in the queue would wait
   *   for whole pictures
   * @throws SwapError `SWAP_CONTROL_MODEL`, `SWAP_MODEL_…`, `SWAP_TENSOR_…`, `SWAP_FILE_…`, `SWAP_HUB_…`; the signal's
   *   reason
   */
  async use<T>(
    nets: readonly string[],
    context: AttachContext,
    start: (names: string[]) => T,
  ): Promise<{ started: T }> {
    if (nets.length === 0) return { started: start([]) }
    return await this.#inTurn(async () => {
      const names: string[] = []
      for (const net of nets) names.push(await this.#attach(net, context))
      context.signal.throwIfAborted()
      return { started: start(names) }
    }, context.signal)
  }

  /** Gives a net's memory back; nothing happens where it is not attached. */
  async release(net: string): Promise<void> {
    await this.#inTurn(async () => {
      const name = this.#names.get(net) ?? (await realpath(net).catch(() => undefined))
      if (name === undefined || !this.#attached.delete(name)) return
      await runTask(() => this.#engine.attach({ name, tensors: [] }, () => {}), new AbortController().signal)
    })
  }

  /** The engine has let all nets go: each is attached anew when it is used next. */
  forget(): void {
    this.#attached.clear()
  }

  async #inTurn<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    const before = this.#last
    let leave = (): void => {}
    const left = new Promise<void>((resolve) => {
      leave = resolve
    })
    this.#last = before.then(() => left)
    try {
      await (signal ? untilAborted(before, signal) : before)
      return await work()
    } finally {
      leave()
    }
  }

  async #attach(net: string, { signal, warn, progress }: AttachContext): Promise<string> {
    signal.throwIfAborted()
    const { locateModel } = await import('./hub/index.ts')
    const { path } = await locateModel(net, {
      variant: this.#variant,
      signal,
      onProgress: ({ phase, done, total }) => progress(phase, done, total),
    })
    const name = await realpath(path).catch(() => resolve(path))
    this.#names.set(net, name)
    const state = await stateOf(name)
    if (this.#attached.get(name) === state) return name
    const { readControl } = await import('./model/control.ts')
    const { spec, tensors, warnings } = await readControl(path, this.#model)
    for (const warning of warnings) warn(warning)
    const onEvent = (event: NativeEvent): void => {
      if (event.type === 'progress' && event.phase === 'load') progress('load', event.done, event.total)
    }
    // The engine lets go of the one of that name first, and has none where reading fails.
    this.#attached.delete(name)
    await runTask(() => this.#engine.attach({ name, spec, tensors }, onEvent), signal)
    this.#attached.set(name, state)
    return name
  }
}

/** Waits for `promise`, which does not fail, or throws the signal's reason where that comes first. */
async function untilAborted(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  let abort = (): void => {}
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(signal.reason)
    signal.addEventListener('abort', abort, { once: true })
  })
  try {
    await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', abort)
  }
}

/** Changes when a file is written anew: sizes and times of the file, or of a folder's configs and weights. */
async function stateOf(path: string): Promise<string> {
  const found = await stat(path).catch(() => undefined)
  if (!found?.isDirectory()) return `${found?.size} ${found?.mtimeMs}`
  const names = (await readdir(path)).filter((name) => /\.(json|safetensors)$/.test(name)).sort()
  const states = await Promise.all(
    names.map(async (name) => {
      const file = await stat(join(path, name)).catch(() => undefined)
      return `${name} ${file?.size} ${file?.mtimeMs}`
    }),
  )
  return states.join('\n')
}

/**
 * Looks at the share of the steps that each net takes part in.
 *
 * @throws SwapError `SWAP_OPTION_INVALID` where it begins behind its end
 */
export function checkWindows(controls: readonly Control[], steps: number, warn: (message: string) => void): void {
  for (const [index, { model, start, end }] of controls.entries()) {
    if (start >= end) {
      throw invalidOption(`option "control[${index}].start" of generate()`, `must be below end ${end}`, start)
    }
    const within = Array.from({ length: steps }, (_, k) => k / steps >= start && (k + 1) / steps <= end)
    if (!within.includes(true)) {
      warn(`the ControlNet "${model}" takes part in none of the ${steps} steps: none lies between ${start} and ${end}`)
    }
  }
}

/** A net and its picture, as the engine is told (but for the net's name there), and as the result tells it. */
export interface ControlPicture {
  engine: Omit<ControlImage, 'net'>
  told: { model: string; image: string; scale: number; start: number; end: number }
}

/**
 * Reads the nets' pictures at the size of those that are made.
 *
 * @throws SwapError `SWAP_IMAGE_…`
 */
export async function readPictures(
  controls: readonly Control[],
  size: { width: number; height: number },
  warn: (message: string) => void,
): Promise<ControlPicture[]> {
  if (controls.length === 0) return []
  const { readControlImage } = await import('./image/index.ts')
  const read: ControlPicture[] = []
  for (const { model, image: input, scale, start, end } of controls) {
    const { image, digest, warnings } = await readControlImage(input, size)
    for (const warning of warnings) warn(warning)
    read.push({
      engine: { image, scale, start, end },
      told: { model: basename(model), image: digest, scale, start, end },
    })
  }
  return read
}
