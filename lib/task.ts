/** Calls into the engine: cancelled by a signal, with errors of this package's own kind. */
import { DisposedError, SwapError, type SwapErrorCode } from './errors.ts'
import type { NativeTask, TrainerState } from './native.ts'

interface NativeFailure extends Error {
  code?: unknown
  hint?: unknown
  state?: TrainerState
}

/**
 * Starts a task, cancels it when the signal aborts, and waits until the engine is done with it.
 *
 * @param onState gets what a cancelled or failed learning had reached
 */
export async function runTask<T>(
  start: () => NativeTask<T>,
  signal: AbortSignal,
  onState?: (state: TrainerState) => void,
): Promise<T> {
  signal.throwIfAborted()
  let cancel: (() => void) | undefined
  try {
    const task = start()
    cancel = () => task.cancel()
    signal.addEventListener('abort', cancel, { once: true })
    // start() may have called back already, and the callback aborted
    if (signal.aborted) cancel()
    return await task.promise
  } catch (error) {
    const failure = error as NativeFailure
    if (onState && failure.state) onState(failure.state)
    // a state is megabytes: an error that is kept must not keep it
    if (failure.state) delete failure.state
    throw fromNative(error)
  } finally {
    if (cancel) signal.removeEventListener('abort', cancel)
  }
}

/** An error of the addon as this package's class, with the native one as its cause. */
export function fromNative(error: unknown): unknown {
  if (error instanceof SwapError || !(error instanceof Error)) return error
  const { code, hint, message } = error as NativeFailure
  if (typeof code !== 'string' || !code.startsWith('SWAP_')) return error
  if (code === 'SWAP_DISPOSED') return new DisposedError('the personalizer')
  return new SwapError(code as SwapErrorCode, message, {
    hint: typeof hint === 'string' && hint !== '' ? hint : undefined,
    cause: error,
  })
}
