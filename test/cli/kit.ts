/** Runs the built command line on the fake engine. */

import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { packageRoot } from '../../lib/paths.ts'

export const cli = join(packageRoot(), 'dist', 'cli.cjs')
export const fake = join(packageRoot(), 'build', 'Release', 'libswap_engine_fake.so')
export const photo = join(packageRoot(), 'models', 'mini', 'people', '6.png')

export function temporary(): string {
  return mkdtempSync(join(tmpdir(), 'swap-cli-'))
}

export interface Result {
  code: number | null
  stdout: string
  bytes: Buffer
  stderr: string
  /** Standard output, an object a line. */
  events: Record<string, unknown>[]
}

export interface RunOptions {
  cwd?: string
  env?: NodeJS.ProcessEnv
  input?: string | Buffer
  /** Called with what has been written to standard output so far. */
  onStdout?: (stdout: string, child: ChildProcess) => void
}

export async function swap(args: string[], options: RunOptions = {}): Promise<Result> {
  return await execute(process.execPath, [cli, ...args], options)
}

export async function execute(command: string, args: string[], options: RunOptions = {}): Promise<Result> {
  const { cwd = temporary(), env = {}, input, onStdout } = options
  const child = spawn(command, args, {
    cwd,
    env: { ...process.env, SWAP_ENGINE_LIBRARY: fake, NO_COLOR: '1', ...env },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const stdout: Buffer[] = []
  const stderr: Buffer[] = []
  child.stdout.on('data', (chunk: Buffer) => {
    stdout.push(chunk)
    onStdout?.(Buffer.concat(stdout).toString(), child)
  })
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk))
  child.stdin.on('error', () => {})
  child.stdin.end(input ?? '')
  const code = await new Promise<number | null>((done, fail) => {
    child.on('error', fail)
    child.on('close', done)
  })
  const bytes = Buffer.concat(stdout)
  return {
    code,
    bytes,
    stdout: bytes.toString(),
    stderr: Buffer.concat(stderr).toString(),
    get events() {
      return bytes
        .toString()
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line) as Record<string, unknown>)
    },
  }
}
