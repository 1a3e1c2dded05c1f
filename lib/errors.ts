/** Errors that users see: a stable code, a sentence with the offending value, and what to do about it. */

/** `SWAP_<AREA>_<WHAT>`; the whole list with its meaning is in docs/errors.md. */
export type SwapErrorCode = `SWAP_${string}`

export interface SwapErrorOptions {
  /** What to do about it, one sentence. */
  hint?: string | undefined
  cause?: unknown
}

/**
 * Every error that this package raises on purpose.
 *
 * `code` is stable and meant for programs; `message` says what was wrong, with the value; `hint` what to do.
 */
export class SwapError extends Error {
  readonly code: SwapErrorCode
  readonly hint: string | undefined

  constructor(code: SwapErrorCode, message: string, { hint, cause }: SwapErrorOptions = {}) {
    super(message, cause === undefined ? undefined : { cause })
    this.name = 'SwapError'
    this.code = code
    this.hint = hint
  }

  toJSON(): { name: string; code: SwapErrorCode; message: string; hint: string | undefined } {
    return { name: this.name, code: this.code, message: this.message, hint: this.hint }
  }
}

/** Raised by every call on something that was closed. */
export class DisposedError extends SwapError {
  constructor(what: string, hint = 'open a new one with Personalizer.open()') {
    super('SWAP_DISPOSED', `${what} is closed`, { hint })
    this.name = 'DisposedError'
  }
}

/** True for an error that came from a file system call (`ENOENT`, `EACCES`, `ENOSPC`, …). */
export function isSystemError(error: unknown): error is NodeJS.ErrnoException & { code: string } {
  return error instanceof Error && typeof (error as NodeJS.ErrnoException).code === 'string' && 'syscall' in error
}
