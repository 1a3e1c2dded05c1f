/** The `swap` command. */

import { CommanderError } from 'commander'
import { fileError } from '../files.ts'
import { Output } from './output.ts'
import { buildProgram } from './program.ts'
import { EXIT } from './run.ts'

/** Parses the arguments and runs the command; the exit code is left in `process.exitCode`. */
export async function main(argv: string[] = process.argv): Promise<void> {
  // `swap … | head` closes the pipe: that is no error.
  for (const stream of [process.stdout, process.stderr])
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') process.exit(EXIT.ok)
      if (stream === process.stdout) new Output().error(fileError(error, 'standard output', 'write'))
      process.exit(EXIT.failed)
    })
  try {
    await buildProgram(argv.includes('--json')).parseAsync(argv)
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error
    // Help and version are asked for; anything else commander ends with is wrong usage.
    process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage
  }
}

void main()
