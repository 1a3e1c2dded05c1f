/** A call that takes a while: awaited for its result, iterated for its events, cancelled at any time. */
import { SwapError } from './errors.ts'

/** What every long call takes beside its options. */
export interface CallOptions {
  /** Aborting it rejects the call with `signal.reason`, the very same value. */
  signal?: AbortSignal | undefined
  /** Called with each of the job's warnings as it comes up. */
  onWarning?: ((warning: string) => void) | undefined
}

/** What a job's work gets: the signal that ends it, and the ways to say something meanwhile. */
export interface JobContext<E> {
  readonly signal: AbortSignal
  emit(event: E): void
  warn(message: string): void
}

/** Events kept for readers; a reader that falls further behind loses the oldest. */
const BUFFERED_EVENTS = 4096

/**
 * A running call.
 *
 * - `await job` gives its result or throws its error.
 * - `for await (const event of job)` gives its events, from the first one that is still buffered (at least the
 *   last 4096 are), to each of any number of readers; it ends with the job, and throws the job's error after the last
 *   event. A slow reader never holds the job up; leaving the loop does not cancel it.
 * - `cancel(reason)` ends it at the next block of work.
 *
 * A job that nobody awaits never raises an `unhandledRejection`.
 */
export class Job<T, E> implements PromiseLike<T>, AsyncIterable<E> {
  readonly #controller = new AbortController()
  readonly #result: Promise<T>
  readonly #warnings: string[] = []
  readonly #events: E[] = []
  /** How many events came before the first of `#events`. */
  #dropped = 0
  #settled = false
  #wake: (() => void)[] = []

  /** @internal `work` is called at once, unless the signal is aborted already. */
  constructor(
    work: (context: JobContext<E>) => Promise<T>,
    { signal, onWarning }: CallOptions = {},
    origin = callSite(Job),
  ) {
    const abort = (): void => this.#controller.abort(signal?.reason)
    if (signal?.aborted) abort()
    else signal?.addEventListener('abort', abort, { once: true })
    this.#result = this.#run(work, onWarning, origin).finally(() => {
      signal?.removeEventListener('abort', abort)
      this.#settled = true
      this.#wakeReaders()
    })
    this.#result.catch(() => {})
  }

  async #run(
    work: (context: JobContext<E>) => Promise<T>,
    onWarning: CallOptions['onWarning'],
    origin: string,
  ): Promise<T> {
    const { signal } = this.#controller
    if (signal.aborted) throw signal.reason
    try {
      return await work({
        signal,
        emit: (event) => this.#emit(event),
        warn: (message) => {
          this.#warnings.push(message)
          onWarning?.(message)
        },
      })
    } catch (error) {
      if (signal.aborted) throw signal.reason
      throw withCallSite(error, origin)
    }
  }

  #emit(event: E): void {
    this.#events.push(event)
    // dropped in blocks: shift() at every event would copy the buffer each time
    if (this.#events.length >= 2 * BUFFERED_EVENTS) {
      this.#events.splice(0, BUFFERED_EVENTS)
      this.#dropped += BUFFERED_EVENTS
    }
    this.#wakeReaders()
  }

  #wakeReaders(): void {
    for (const wake of this.#wake.splice(0)) wake()
  }

  /** What is worth knowing though nothing failed, e.g. a photo smaller than the model's size. Grows while the job runs. */
  get warnings(): readonly string[] {
    return this.#warnings
  }

  /**
   * Ends the job at its next block of work. No effect on a job that has ended; the first reason counts.
   *
   * @param reason what the job rejects with, the very same value; default: a `SwapError` `SWAP_CANCELLED`
   */
  cancel(reason?: unknown): void {
    if (this.#settled) return
    this.#controller.abort(reason === undefined ? new SwapError('SWAP_CANCELLED', 'the job was cancelled') : reason)
  }

  // biome-ignore lint/suspicious/noThenProperty: a job is awaited
  then<A = T, B = never>(
    onResult?: ((value: T) => A | PromiseLike<A>) | null,
    onError?: ((reason: unknown) => B | PromiseLike<B>) | null,
  ): Promise<A | B> {
    return this.#result.then(onResult, onError)
  }

  catch<B = never>(onError?: ((reason: unknown) => B | PromiseLike<B>) | null): Promise<T | B> {
    return this.#result.catch(onError)
  }

  finally(onEnd?: (() => void) | null): Promise<T> {
    return this.#result.finally(onEnd)
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<E, void, undefined> {
    for (let next = 0; ; ) {
      next = Math.max(next, this.#dropped)
      if (next < this.#dropped + this.#events.length) yield this.#events[next++ - this.#dropped] as E
      else if (this.#settled) break
      else await new Promise<void>((wake) => this.#wake.push(wake))
    }
    await this.#result
  }

  get [Symbol.toStringTag](): string {
    return 'Job'
  }
}

/** The stack of whoever called `below`, one frame a line, without a message. */
export function callSite(below: (...parameters: never[]) => unknown): string
export function callSite(below: abstract new (...parameters: never[]) => unknown): string
export function callSite(below: object): string {
  const holder: { stack?: string } = {}
  Error.captureStackTrace(holder, below as () => void)
  return (holder.stack ?? '').split('\n').slice(1).join('\n')
}

/** Appends the call's frames to an error's own: one raised on the engine's thread has none of JavaScript. */
export function withCallSite(error: unknown, origin: string): unknown {
  if (error instanceof Error && origin !== '' && !error.stack?.includes(origin)) {
    error.stack = `${error.stack}\n    --- called from ---\n${origin}`
  }
  return error
}
