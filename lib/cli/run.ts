/** What every command has in common: Ctrl-C, errors, exit codes. */

import { SwapError } from '../errors.ts'
import { Output, type OutputOptions } from './output.ts'

export const EXIT = { ok: 0, failed: 1, usage: 2, interrupted: 130 } as const

/** The reason that Ctrl-C aborts with. */
export class Interrupted extends SwapError {
  constructor() {
    super('SWAP_CANCELLED', 'interrupted')
  }
}

/** A wrong option or argument, found by a command itself. */
export function usage(message: string, hint?: string): SwapError {
  return new SwapError('SWAP_OPTION_USAGE', message, { hint })
}

export interface Context {
  output: Output
  /** Aborted by the first Ctrl-C; the second ends the process at once. */
  signal: AbortSignal
}

function exitCode(error: unknown): number {
  return error instanceof SwapError && error.code.startsWith('SWAP_OPTION') ? EXIT.usage : EXIT.failed
}

/**
 * Runs a command and leaves its exit code in `process.exitCode`: nothing is thrown, and standard output is
 * written to its end.
 */
export async function run(options: OutputOptions, command: (context: Context) => Promise<void>): Promise<void> {
  const output = new Output(options)
  const controller = new AbortController()
  let interrupts = 0
  const interrupt = (): void => {
    interrupts += 1
    if (interrupts > 1) {
      output.endProgress()
      process.exit(EXIT.interrupted)
    }
    controller.abort(new Interrupted())
  }
  process.on('SIGINT', interrupt)
  process.on('SIGTERM', interrupt)
  try {
    await command({ output, signal: controller.signal })
    output.endProgress()
  } catch (error) {
    output.endProgress()
    if (controller.signal.aborted) {
      // What to do next was said by the command; the rest is the exit code's to say.
      output.error(error instanceof Interrupted ? error : new Interrupted())
      process.exitCode = EXIT.interrupted
    } else {
      output.error(error)
      process.exitCode = exitCode(error)
    }
  } finally {
    process.off('SIGINT', interrupt)
    process.off('SIGTERM', interrupt)
  }
}
