/** ONNX Runtime, an optional peer dependency: only who evaluates needs it. */

import { SwapError } from '../errors.ts'
import { exists } from '../model/json.ts'

/** Numbers in, numbers out, in the runtime's own form. */
export interface Tensor {
  readonly type: string
  readonly data: Float32Array | BigInt64Array | Int32Array
  readonly dims: readonly number[]
}

/** The little of `onnxruntime-node` that is used. It is not a dependency, so its types are not here. */
interface Runtime {
  Tensor: new (type: string, data: Tensor['data'], dims: readonly number[]) => Tensor
  InferenceSession: { create(path: string, options: Record<string, unknown>): Promise<Session> }
}

interface Session {
  readonly inputNames: readonly string[]
  readonly outputNames: readonly string[]
  run(feeds: Record<string, Tensor>): Promise<Record<string, Tensor>>
  release(): Promise<void>
}

const PACKAGE: string = 'onnxruntime-node'

/** @internal Tests put their own in place. */
export type ImportRuntime = () => Promise<unknown>

async function openRuntime(load: ImportRuntime): Promise<Runtime> {
  try {
    const loaded = (await load()) as Partial<Runtime> & { default?: Runtime }
    const runtime = loaded.InferenceSession ? (loaded as Runtime) : loaded.default
    if (!runtime?.InferenceSession) throw new Error('it exports no InferenceSession')
    return runtime
  } catch (cause) {
    const says = cause instanceof Error ? cause.message.split('\n')[0]! : String(cause)
    throw new SwapError('SWAP_EVALUATE_RUNTIME', `evaluating needs ONNX Runtime, which cannot be loaded (${says})`, {
      hint: 'npm install onnxruntime-node (with ONNXRUNTIME_NODE_INSTALL=skip set, it fetches no files for GPUs)',
      cause,
    })
  }
}

/** One ONNX file, opened. */
export class Net {
  readonly path: string
  readonly #runtime: Runtime
  readonly #session: Session

  private constructor(path: string, runtime: Runtime, session: Session) {
    this.path = path
    this.#runtime = runtime
    this.#session = session
  }

  /**
   * Opens an ONNX file on the CPU.
   *
   * @throws SwapError `SWAP_EVALUATE_RUNTIME` without ONNX Runtime, `SWAP_EVALUATE_NET` for a file that it does not open
   */
  static async open(path: string, threads: number, load: ImportRuntime = () => import(PACKAGE)): Promise<Net> {
    if (!(await exists(path)))
      throw new SwapError('SWAP_EVALUATE_NET', `there is no net "${path}"`, { hint: 'check the path in the card' })
    const runtime = await openRuntime(load)
    try {
      const options = { executionProviders: ['cpu'], intraOpNumThreads: threads, interOpNumThreads: 1 }
      return new Net(path, runtime, await runtime.InferenceSession.create(path, options))
    } catch (cause) {
      const says = cause instanceof Error ? cause.message.split('\n')[0]! : String(cause)
      throw new SwapError('SWAP_EVALUATE_NET', `ONNX Runtime does not open "${path}": ${says}`, {
        hint: 'is it a whole ONNX file?',
        cause,
      })
    }
  }

  /** The net's inputs that are called by one of these names; else its first. */
  input(...names: string[]): string {
    return names.find((name) => this.#session.inputNames.includes(name)) ?? this.#session.inputNames[0]!
  }

  get inputs(): readonly string[] {
    return this.#session.inputNames
  }

  tensor(data: Tensor['data'], dims: readonly number[]): Tensor {
    const type = data instanceof Float32Array ? 'float32' : data instanceof Int32Array ? 'int32' : 'int64'
    return new this.#runtime.Tensor(type, data, dims)
  }

  /**
   * Rows of one output: the one that is named, else the net's first.
   *
   * @throws SwapError `SWAP_EVALUATE_NET` where the net refuses its input or gives no rows of numbers
   */
  async rows(feeds: Record<string, Tensor>, count: number, output?: string): Promise<Float32Array[]> {
    const name = output ?? this.#session.outputNames[0]!
    let made: Record<string, Tensor>
    try {
      made = await this.#session.run(feeds)
    } catch (cause) {
      const says = cause instanceof Error ? cause.message.split('\n')[0]! : String(cause)
      throw new SwapError('SWAP_EVALUATE_NET', `the net "${this.path}" does not run: ${says}`, {
        hint: 'do the size and the inputs in the card fit the net?',
        cause,
      })
    }
    const tensor = made[name]
    if (!(tensor?.data instanceof Float32Array) || tensor.dims.length !== 2 || tensor.dims[0] !== count) {
      const found = tensor ? `${tensor.type} [${tensor.dims.join(', ')}]` : 'nothing'
      throw new SwapError('SWAP_EVALUATE_NET', `output "${name}" of "${this.path}" is ${found}`, {
        hint: `it must be float32, ${count} rows; the net has the outputs ${this.#session.outputNames.join(', ')}`,
      })
    }
    const width = tensor.dims[1]!
    return Array.from({ length: count }, (_, row) =>
      (tensor.data as Float32Array).slice(row * width, (row + 1) * width),
    )
  }

  async close(): Promise<void> {
    await this.#session.release()
  }
}
