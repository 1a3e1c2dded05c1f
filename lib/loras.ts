/** The LoRA of an opened model: read with the weights, and changed by reading the weights again. */
import { DisposedError, SwapError } from './errors.ts'
import type { LoraFile, LoraInfo, Loras } from './model/lora.ts'
import type { EngineInfo, LoadRequest, NativeEngine, NativeEvent } from './native.ts'
import type { OpenProgress } from './options.ts'
import type { Session } from './session.ts'
import { runTask } from './task.ts'

/** The weights of a model with LoRA added to them. */
export function withLoras(request: LoadRequest, { tensors, deltas }: Loras): LoadRequest {
  if (deltas.length === 0) return request
  return { ...request, tensors: [...request.tensors, ...tensors], deltas }
}

/** Starts the engine's load. */
export function load(
  engine: NativeEngine,
  request: LoadRequest,
  report: (progress: OpenProgress) => void,
): ReturnType<NativeEngine['load']> {
  return engine.load(request, (event: NativeEvent) => {
    if (event.type !== 'progress' || event.phase !== 'load') return
    report({ phase: 'load', done: event.done, total: event.total })
  })
}

/** What can be known of LoRA before the weights are read. */
export async function prepareLoras(session: Session, files: readonly LoraFile[]): Promise<Loras> {
  const { readLoras } = await import('./model/lora.ts')
  return await readLoras(session.model, files)
}

/**
 * Reads the weights again, with other LoRA; what was attached is let go. When that fails they are read as they were before.
 *
 * @throws SwapError `SWAP_LORA_LOST` when they cannot: the engine has no model then; else what went wrong
 */
export async function changeLoras(
  session: Session,
  loras: Loras,
  signal: AbortSignal,
  report: (progress: OpenProgress) => void,
): Promise<EngineInfo> {
  const { engine, controls } = session
  controls.forget()
  try {
    const info = await runTask(() => load(engine, withLoras(session.request, loras), report), signal)
    session.loras = loras
    return info
  } catch (error) {
    // Closing is no failure to recover from.
    if (signal.reason instanceof DisposedError) throw error
    await runTask(
      () => load(engine, withLoras(session.request, session.loras), () => {}),
      new AbortController().signal,
    ).catch((cause: unknown) => {
      throw new SwapError('SWAP_LORA_LOST', `the weights could not be read again: ${(cause as Error).message}`, {
        hint: 'the personalizer is closed; open the model again',
        cause: error,
      })
    })
    throw error
  }
}

/** How LoRA are noted in what is made with them. */
export function loraLabels(files: readonly LoraInfo[]): string[] {
  return files.map(({ file, scale }) => `${file.split(/[/\\]/).at(-1)}:${scale}`)
}
