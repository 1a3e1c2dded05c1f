/** The second way to LibTorch: the Python wheel of torch holds it. Only pip is run, none of torch's Python. */

import { spawn } from 'node:child_process'
import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { SwapError } from '../errors.ts'
import { LIBTORCH_VERSION } from './version.ts'

export interface PipOptions {
  /** Folder that the wheel is downloaded to. */
  folder: string
  signal?: AbortSignal | undefined
  /** Interpreters to try, in order. */
  pythons?: string[] | undefined
  env?: NodeJS.ProcessEnv | undefined
}

function run(
  python: string,
  args: string[],
  { signal, env }: PipOptions,
): Promise<{ code: number | null; output: string }> {
  return new Promise((done, fail) => {
    const child = spawn(python, args, { env, signal, windowsHide: true, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    const keep = (chunk: Buffer): void => {
      output = (output + chunk.toString()).slice(-8000)
    }
    child.stdout.on('data', keep)
    child.stderr.on('data', keep)
    child.on('error', fail)
    child.on('close', (code) => done({ code, output }))
  })
}

/** The last lines in which pip says what is wrong. */
function complaint(output: string): string {
  const lines = output.split('\n').map((line) => line.trim())
  const errors = lines.filter((line) => /^(ERROR|error|.*No module named)/.test(line))
  return (errors.at(-1) ?? lines.filter(Boolean).at(-1) ?? 'no output').replace(/^ERROR:\s*/, '')
}

/**
 * Downloads the wheel of torch with pip, which checks its hash against its index, and resolves to its path.
 *
 * @throws SwapError `SWAP_LIBTORCH_PIP` when no interpreter with pip is here or pip fails; the signal's reason when aborted.
 */
export async function downloadWheel(options: PipOptions): Promise<string> {
  const { folder, signal, pythons = ['python3', 'python'] } = options
  await mkdir(folder, { recursive: true })
  const failures: string[] = []
  for (const python of pythons) {
    const args = ['-m', 'pip', 'download', `torch==${LIBTORCH_VERSION}`, '--no-deps', '--only-binary=:all:']
    args.push('--progress-bar=off', '--no-input', '--disable-pip-version-check', '-d', folder)
    try {
      const { code, output } = await run(python, args, options)
      const wheel = (await readdir(folder)).find((name) => name.startsWith('torch-') && name.endsWith('.whl'))
      if (code === 0 && wheel) return join(folder, wheel)
      failures.push(`${python}: ${complaint(output)}`)
    } catch (error) {
      signal?.throwIfAborted()
      failures.push(`${python}: ${(error as NodeJS.ErrnoException).code === 'ENOENT' ? 'not found' : String(error)}`)
    }
  }
  throw new SwapError('SWAP_LIBTORCH_PIP', `pip could not get torch ${LIBTORCH_VERSION} (${failures.join('; ')})`, {
    hint: 'install Python 3 with pip, or give pip an index that has it (PIP_INDEX_URL)',
  })
}

/** Where an entry of the wheel goes: LibTorch's own parts, without the Python around them. */
export function wheelEntry(name: string): string | undefined {
  const inside = /^torch\/((?:lib|include|share)\/.*|version\.py)$/.exec(name)
  if (inside) return inside[1]
  // What auditwheel moved aside: back beside the libraries that ask for it.
  const moved = /^torch\.libs\/([^/]+)$/.exec(name)
  return moved ? `lib/${moved[1]}` : undefined
}
