import { execFile } from 'node:child_process'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type {
  EvaluateRequest,
  GenerateRequest,
  LearnRequest,
  LoadRequest,
  ModelSpec,
  NativeBinding,
  NativeEngine,
  NativeEvent,
  NativeImage,
  NativeTask,
  SchedulerSpec,
  TrainerState,
} from '../../lib/native.ts'

/** test/binding/kit.cjs, which child processes and worker threads require as well. */
interface Kit {
  binding: string
  fake: string
  native(): NativeBinding
  engine(): NativeEngine
  seeds: { block: number; fail: number; noMemory: number; flood: number }
  spec(): ModelSpec
  scheduler(): SchedulerSpec
  load(options?: { file?: string; begin?: number; end?: number; device?: string }): LoadRequest
  photo(red?: number, green?: number, blue?: number): NativeImage
  learn(changes?: Partial<LearnRequest>): LearnRequest
  generate(changes?: Partial<GenerateRequest>): GenerateRequest
  /** The fake engine knows more ops than the real one. */
  echo(changes?: Partial<Omit<EvaluateRequest, 'op'>> & { op?: string }): EvaluateRequest
  ignore(event: NativeEvent): void
  opened(): Promise<NativeEngine>
  running<M extends 'load' | 'learn' | 'generate' | 'evaluate'>(
    engine: NativeEngine,
    method: M,
    request: Parameters<NativeEngine[M]>[0],
  ): Promise<ReturnType<NativeEngine[M]>>
}

const path = fileURLToPath(new URL('./kit.cjs', import.meta.url))

export const kit = createRequire(import.meta.url)(path) as Kit

/** What the addon's errors look like. */
export interface NativeError extends Error {
  code: string
  hint?: string
  state?: TrainerState
}

/** The error that `promise` rejects with. */
export async function failure(promise: Promise<unknown> | NativeTask<unknown>): Promise<NativeError> {
  const outcome = await ('promise' in promise ? promise.promise : promise).then(
    () => undefined,
    (error: unknown) => error,
  )
  if (outcome instanceof Error) return outcome as NativeError
  throw new Error('it should have failed')
}

/** The error that `call` throws. */
export function thrown(call: () => unknown): NativeError {
  try {
    call()
  } catch (error) {
    if (error instanceof Error) return error as NativeError
    throw error
  }
  throw new Error('it should have thrown')
}

/**
 * Runs `code` in a Node of its own, with the kit as `kit`; gives what it printed. An exit code other than 0, a
 * signal (a crash) and an unhandled rejection are failures.
 */
export async function run(code: string, flags: string[] = [], env: NodeJS.ProcessEnv = {}): Promise<string> {
  const prelude = `const kit = require(${JSON.stringify(path)});`
  const script = `${prelude} (async () => { ${code} })()`
  const options = { timeout: 60_000, env: { ...process.env, ...env } }
  const { stdout } = await promisify(execFile)(process.execPath, [...flags, '-e', script], options)
  return stdout.trim()
}

/** Source of a worker thread that has the kit as `kit` and its port as `port`. */
export function workerSource(code: string): string {
  return `const kit = require(${JSON.stringify(path)}); const { parentPort: port } = require('node:worker_threads');
    (async () => { ${code} })()`
}
