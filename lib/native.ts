/**
 * What the addon looks like from TypeScript: the shapes that cross `lib -> binding`.
 *
 * They mirror cpp/engine.h field by field in camelCase. Everything here is already validated by
 * `lib`; the binding checks types only and throws coded errors.
 */

export interface NativeTensor {
  name: string
  shape: number[]
  data: Float32Array
}

export interface TextEncoderSpec {
  vocab: number
  width: number
  layers: number
  heads: number
  intermediate: number
  positions: number
  activation: 'quick_gelu' | 'gelu'
  normEps: number
  /** Which state conditions the U-Net, counted from the end: 0 is the last layer's. */
  skipLayers: number
  finalNorm: boolean
  /** SDXL's second encoder: width of the pooled state; 0: none. */
  projectionDim: number
  /** The token that ends the text; 2 in older configs means the greatest id. */
  eos: number
}

/** One resolution of the U-Net, from the finest (level 0) to the coarsest. */
export interface UNetLevelSpec {
  channels: number
  layers: number
  heads: number
  transformerLayers: number
  downAttention: boolean
  upAttention: boolean
}

export interface UNetSpec {
  inChannels: number
  outChannels: number
  sampleSize: number
  levels: UNetLevelSpec[]
  midAttention: boolean
  midHeads: number
  midTransformerLayers: number
  crossAttentionDim: number
  linearProjection: boolean
  upcastAttention: boolean
  normGroups: number
  normEps: number
  flipSinToCos: boolean
  freqShift: number
  downsamplePadding: number
  /** SDXL: width of the pooled text state that joins the time embedding, with six sizes; 0: neither. */
  pooledWidth?: number | undefined
  timeIdWidth?: number | undefined
  /** LCM: width of the guidance scale's sinusoid; 0: none. */
  guidanceWidth?: number | undefined
}

/** Of `unet`, what describes the way up and the output is not read. */
export interface ControlNetSpec {
  unet: UNetSpec
  imageChannels: number
  imageWidths: number[]
}

export interface VaeSpec {
  inChannels: number
  outChannels: number
  latentChannels: number
  channels: number[]
  layers: number
  normGroups: number
  midAttention: boolean
  quantConv: boolean
  postQuantConv: boolean
  scalingFactor: number
  shiftFactor: number
}

export interface NoiseSpec {
  trainTimesteps: number
  betaStart: number
  betaEnd: number
  betaSchedule: 'linear' | 'scaled_linear' | 'squaredcos_cap_v2'
  trainedBetas: number[]
  zeroTerminalSnr: boolean
  predictionType: 'epsilon' | 'v_prediction' | 'sample'
}

export interface ModelSpec {
  textEncoders: TextEncoderSpec[]
  unet: UNetSpec
  vae: VaeSpec
  noise: NoiseSpec
}

export interface TensorEntry {
  /** Canonical: `text_encoder.0.…` (without `text_model.`), `unet.…`, `vae.…`, diffusers' names after the prefix. */
  name: string
  dtype: 'F64' | 'F32' | 'F16' | 'BF16' | 'I64' | 'I32' | 'U8'
  shape: number[]
  file: string
  begin: number
  end: number
  /** The file has the matrix `shape` column by column; undefined: no. */
  transposed?: boolean | undefined
}

/** `W += scale * up @ down`, merged while W is read. `down`, `up` and `middle` name entries of the same table. */
export interface WeightDelta {
  target: string
  down: string
  up: string
  /** Empty: none. */
  middle: string
  scale: number
}

export interface SubjectVectors {
  stages: number
  tokens: number
  /** They stand in the prompt that the pooled state is read from too (Textual Inversion files). */
  inPooled?: boolean | undefined
  /** One `[stages, tokens, width]` array for each text encoder. */
  k: Float32Array[]
  v: Float32Array[]
}

export interface PromptTokens {
  /** One list for each text encoder: chunks of the encoder's positions, one behind the other. */
  ids: number[][]
  /** Positions are counted over the chunks. */
  slots: { subject: number; position: number }[]
  /** One a position; undefined: all 1. */
  weights?: Float32Array | undefined
  /** States and pooled state are zeros. */
  zero?: boolean | undefined
  /** Words that are no subject keep the states that they have with the class words; what follows the text does not. */
  isolate?: boolean | undefined
}

export type SchedulerKind = 'ddim' | 'pndm' | 'euler' | 'euler-a' | 'dpm++2m' | 'unipc' | 'lcm'

export interface SchedulerSpec {
  kind: SchedulerKind
  noise: NoiseSpec
  timestepSpacing: 'leading' | 'trailing' | 'linspace'
  stepsOffset: number
  setAlphaToOne: boolean
  clipSample: boolean
  clipSampleRange: number
  thresholding: boolean
  dynamicThresholdingRatio: number
  sampleMaxValue: number
  skipPrkSteps: boolean
  sigmas: 'default' | 'karras' | 'exponential' | 'beta'
  interpolationType: 'linear' | 'log_linear'
  finalSigmasType: 'zero' | 'sigma_min'
  timestepType: 'discrete' | 'continuous'
  /** Karras' range; negative: the schedule's own. */
  sigmaMin: number
  sigmaMax: number
  solverOrder: number
  algorithmType: 'dpmsolver++' | 'dpmsolver' | 'sde-dpmsolver++'
  solverType: 'midpoint' | 'heun' | 'bh1' | 'bh2'
  lowerOrderFinal: boolean
  eulerAtFinal: boolean
  lambdaMinClipped: number
  predictX0: boolean
  disableCorrector: number[]
  originalSteps?: number | undefined
  timestepScaling?: number | undefined
}

export interface LoadRequest {
  spec: ModelSpec
  tensors: TensorEntry[]
  deltas?: WeightDelta[] | undefined
  device: string
  dtype: 'auto' | 'float32' | 'bfloat16' | 'float16'
  threads: number
}

export interface EngineInfo {
  device: string
  dtype: 'float32' | 'bfloat16' | 'float16'
  threads: number
  parameters: number
  weightBytes: number
  libtorch: string
  attention: string
  cpuFeatures: string
}

/** Adds a ControlNet under a name, replaces the one of that name, or, without a spec, lets it go. */
export interface AttachRequest {
  name: string
  spec?: ControlNetSpec | undefined
  tensors: TensorEntry[]
}

export interface AttachInfo {
  parameters: number
  weightBytes: number
}

/** 8-bit RGB, `[height, width, 3]`. */
export interface NativeImage {
  width: number
  height: number
  data: Uint8Array
}

export interface TemplateTokens {
  ids: number[][]
  position: number
}

export interface TrainerState {
  step: number
  tensors: NativeTensor[]
}

export interface LearnRequest {
  image: NativeImage
  /** `[latent height, latent width]`; empty: 1 everywhere. */
  mask: Float32Array
  templates: TemplateTokens[]
  classTokens: number
  steps: number
  batch: number
  learningRate: number
  seed: number
  stages: number
  split: boolean
  parametrization: 'attention' | 'direct'
  attentionWeight: number
  /** Empty: all. */
  attentionLevels: number[]
  tokenWeights: Float32Array
  /** `[6]` where the U-Net takes a pooled state; undefined: none. */
  timeIds?: number[] | undefined
  resume?: TrainerState | undefined
  checkpointEvery: number
}

export interface LearnResult {
  subject: SubjectVectors
  state: TrainerState
  seconds: number
}

export interface InitialImage {
  image: NativeImage
  strength: number
  /** `[height, width]`, 1 where it is painted anew; empty: everywhere. */
  mask: Float32Array
}

export interface ControlImage {
  net: string
  image: NativeImage
  scale: number
  start: number
  end: number
}

export interface GenerateRequest {
  prompt: PromptTokens
  negative: PromptTokens
  subjects: SubjectVectors[]
  scheduler: SchedulerSpec
  steps: number
  guidanceScale: number
  seeds: number[]
  width: number
  height: number
  batch: number
  guidanceRescale?: number | undefined
  timeIds?: number[] | undefined
  negativeTimeIds?: number[] | undefined
  initial?: InitialImage | undefined
  controls?: ControlImage[] | undefined
}

export interface GenerateResult {
  images: NativeImage[]
}

export interface EvaluateRequest {
  op:
    | 'text_states'
    | 'prompt'
    | 'unet'
    | 'controlnet'
    | 'vae_encode'
    | 'vae_decode'
    | 'trajectory'
    | 'gradient'
    | 'draws'
  inputs: NativeTensor[]
  learn?: LearnRequest | undefined
  generate?: GenerateRequest | undefined
  scheduler?: SchedulerSpec | undefined
  steps?: number | undefined
  textEncoder?: number | undefined
  control?: string | undefined
}

export interface EvaluateResult {
  outputs: NativeTensor[]
}

/** Sent while a task runs. `checkpoint` is the only one that carries a state. */
export type NativeEvent =
  | {
      type: 'progress'
      phase: 'load' | 'prepare' | 'step' | 'decode'
      done: number
      total: number
      loss: number
      reconstruction: number
      attention: number
      stage: number
      secondsLeft: number
    }
  | { type: 'checkpoint'; state: TrainerState }

/**
 * A queued or running call. The promise rejects with an `Error` that has `code` and `hint`; a cancelled
 * one has code `SWAP_CANCELLED`, and a cancelled or failed `learn` also has `state?: TrainerState`.
 */
export interface NativeTask<T> {
  readonly promise: Promise<T>
  /** Takes effect at the next block; at once for a task that still waits. Idempotent. */
  cancel(): void
}

/** One engine and its worker thread. All tasks of one engine run on that thread; all but loads go before a learning that runs. */
export interface NativeEngine {
  load(request: LoadRequest, onEvent: (event: NativeEvent) => void): NativeTask<EngineInfo>
  attach(request: AttachRequest, onEvent: (event: NativeEvent) => void): NativeTask<AttachInfo>
  learn(request: LearnRequest, onEvent: (event: NativeEvent) => void): NativeTask<LearnResult>
  generate(request: GenerateRequest, onEvent: (event: NativeEvent) => void): NativeTask<GenerateResult>
  evaluate(request: EvaluateRequest, onEvent: (event: NativeEvent) => void): NativeTask<EvaluateResult>
  /** Cancels what runs and waits, joins the thread, frees the model. Resolves when the memory is free. Idempotent. */
  close(): Promise<void>
}

export interface NativeBinding {
  /** `kEngineAbi` of the addon. */
  readonly abi: number
  /**
   * Opens LibTorch's libraries by full path, in this order, then the engine library: in another thread, for it takes
   * a good tenth of a second.
   * Rejects with `SWAP_LIBTORCH_LOAD` (a library cannot be opened), `SWAP_ENGINE_ABI` (another build's engine),
   * `SWAP_ENGINE_FLAVOUR` (another flavour of LibTorch is already loaded in this process).
   */
  openLibraries(options: { libraries: string[]; engine: string }): Promise<void>
  /** Starts an engine's thread. What is not open yet is opened here; throws as `openLibraries` rejects. */
  createEngine(options: { libraries: string[]; engine: string }): NativeEngine
}
