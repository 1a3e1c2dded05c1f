/** A binding in TypeScript: what the engine was asked for, and answers that a test gives by hand. */
import { NATIVE_ABI } from '../../lib/addon.ts'
import type {
  AttachInfo,
  AttachRequest,
  EngineInfo,
  GenerateRequest,
  GenerateResult,
  LearnRequest,
  LearnResult,
  LoadRequest,
  NativeBinding,
  NativeEngine,
  NativeEvent,
  NativeTask,
  TrainerState,
} from '../../lib/native.ts'

export const ENGINE_INFO: EngineInfo = {
  device: 'cpu',
  dtype: 'float32',
  threads: 2,
  parameters: 16_000_000,
  weightBytes: 64_000_000,
  libtorch: '2.13.0',
  attention: 'eager',
  cpuFeatures: 'avx2',
}

/** A progress event without its phase and counts. */
export const PROGRESS = {
  type: 'progress',
  loss: 0,
  reconstruction: 0,
  attention: 0,
  stage: -1,
  secondsLeft: -1,
} as const

/** A native error: a plain `Error` with a code, and no JavaScript frames. */
export function nativeError(code: string, message = 'from the engine', extra: object = {}): Error {
  const error = Object.assign(new Error(message), { code, hint: 'do something', ...extra })
  error.stack = `Error: ${message}`
  return error
}

/** One call that reached the engine; ended by the test, or by `cancel()` as the engine ends it. */
export class Call<Request, Result> {
  readonly promise: Promise<Result>
  cancelled = false
  resolve!: (result: Result) => void
  reject!: (error: unknown) => void

  constructor(
    readonly request: Request,
    readonly emit: (event: NativeEvent) => void,
    /** The state that a cancelled learning carries. */
    public state?: TrainerState,
  ) {
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve
      this.reject = reject
    })
  }

  cancel(): void {
    if (this.cancelled) return
    this.cancelled = true
    this.reject(nativeError('SWAP_CANCELLED', 'cancelled', this.state ? { state: this.state } : {}))
  }

  step(done: number, total: number, extra: object = {}): void {
    const numbers = { loss: 0.5, reconstruction: 0.4, attention: 100, stage: 2, secondsLeft: -1 }
    this.emit({ type: 'progress', phase: 'step', done, total, ...numbers, ...extra })
  }
}

export class FakeEngine implements NativeEngine {
  readonly loads: Call<LoadRequest, EngineInfo>[] = []
  readonly attaches: Call<AttachRequest, AttachInfo>[] = []
  readonly learns: Call<LearnRequest, LearnResult>[] = []
  readonly generates: Call<GenerateRequest, GenerateResult>[] = []
  closed = 0

  constructor(
    readonly options: { libraries: string[]; engine: string },
    readonly binding: FakeBinding,
  ) {}

  load(request: LoadRequest, onEvent: (event: NativeEvent) => void): NativeTask<EngineInfo> {
    const call = new Call<LoadRequest, EngineInfo>(request, onEvent)
    this.loads.push(call)
    this.binding.onLoad(call)
    return call
  }

  learn(request: LearnRequest, onEvent: (event: NativeEvent) => void): NativeTask<LearnResult> {
    const call = new Call<LearnRequest, LearnResult>(request, onEvent)
    this.learns.push(call)
    this.binding.onLearn(call)
    return call
  }

  generate(request: GenerateRequest, onEvent: (event: NativeEvent) => void): NativeTask<GenerateResult> {
    const call = new Call<GenerateRequest, GenerateResult>(request, onEvent)
    this.generates.push(call)
    this.binding.onGenerate(call)
    return call
  }

  attach(request: AttachRequest, onEvent: (event: NativeEvent) => void): NativeTask<AttachInfo> {
    const call = new Call<AttachRequest, AttachInfo>(request, onEvent)
    this.attaches.push(call)
    this.binding.onAttach(call)
    return call
  }

  evaluate(): never {
    throw new Error('not part of this fake')
  }

  async close(): Promise<void> {
    this.closed++
    for (const call of [...this.loads, ...this.attaches, ...this.learns, ...this.generates]) call.cancel()
  }
}

export class FakeBinding implements NativeBinding {
  readonly abi = NATIVE_ABI
  readonly engines: FakeEngine[] = []
  /** By default a model loads at once, and the rest waits for the test. */
  onLoad: (call: Call<LoadRequest, EngineInfo>) => void = (call) => call.resolve(ENGINE_INFO)
  onAttach: (call: Call<AttachRequest, AttachInfo>) => void = (call) => call.resolve({ parameters: 0, weightBytes: 0 })
  onLearn: (call: Call<LearnRequest, LearnResult>) => void = () => {}
  onGenerate: (call: Call<GenerateRequest, GenerateResult>) => void = () => {}

  async openLibraries(_options: { libraries: string[]; engine: string }): Promise<void> {}

  createEngine(options: { libraries: string[]; engine: string }): FakeEngine {
    const engine = new FakeEngine(options, this)
    this.engines.push(engine)
    return engine
  }
}

/** A trainer's state of one tensor. */
export function trainerState(step: number, value = step): TrainerState {
  return { step, tensors: [{ name: 'param.delta', shape: [2], data: new Float32Array([value, 0.5]) }] }
}

/** What a learning gives: every number is 1 in K and 2 in V. */
export function learnResult({ stages, classTokens, steps }: LearnRequest, width: number): LearnResult {
  const length = stages * classTokens * width
  const [k, v] = [new Float32Array(length).fill(1), new Float32Array(length).fill(2)]
  return { subject: { stages, tokens: classTokens, k: [k], v: [v] }, state: trainerState(steps), seconds: 1 }
}

/** Pictures whose every value is their index. */
export function generateResult({ seeds, width, height }: GenerateRequest): GenerateResult {
  return { images: seeds.map((_, index) => ({ width, height, data: new Uint8Array(width * height * 3).fill(index) })) }
}
