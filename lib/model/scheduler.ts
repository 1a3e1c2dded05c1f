/** scheduler_config.json -> what the engine's schedulers take, as diffusers' `from_config` resolves it. */
import { SwapError } from '../errors.ts'
import type { NoiseSpec, SchedulerKind, SchedulerSpec } from '../native.ts'
import { show } from './json.ts'

/** A scheduler as its file describes it. */
export interface SchedulerFile {
  /** diffusers' name of the class. */
  className: string
  /** The file's own keys. Those that it lacks take the defaults of the class that is built, not of `className`. */
  config: Record<string, unknown>
}

export type SchedulerName = 'ddim' | 'pndm' | 'euler' | 'euler-a' | 'dpm++2m' | 'dpm++2m-karras' | 'unipc' | 'lcm'

const KINDS: Record<string, SchedulerKind> = {
  DDIMScheduler: 'ddim',
  PNDMScheduler: 'pndm',
  EulerDiscreteScheduler: 'euler',
  EulerAncestralDiscreteScheduler: 'euler-a',
  DPMSolverMultistepScheduler: 'dpm++2m',
  UniPCMultistepScheduler: 'unipc',
  LCMScheduler: 'lcm',
}

const NOISE = {
  num_train_timesteps: 1000,
  beta_start: 0.0001,
  beta_end: 0.02,
  beta_schedule: 'linear',
  trained_betas: null,
  prediction_type: 'epsilon',
}

/** Those of the models that LCMs are distilled from; the other classes are older. */
const LCM_NOISE = { ...NOISE, beta_start: 0.00085, beta_end: 0.012, beta_schedule: 'scaled_linear' }

const SIGMAS = { use_karras_sigmas: false, use_exponential_sigmas: false, use_beta_sigmas: false }

const THRESHOLDING = { thresholding: false, dynamic_thresholding_ratio: 0.995, sample_max_value: 1 }

const SOLVER = {
  ...THRESHOLDING,
  ...SIGMAS,
  solver_order: 2,
  lower_order_final: true,
  use_flow_sigmas: false,
  final_sigmas_type: 'zero',
  timestep_spacing: 'linspace',
  steps_offset: 0,
  rescale_betas_zero_snr: false,
}

/** The keys that each class knows, with its defaults (diffusers 0.35 to 0.42). */
const DEFAULTS: Record<SchedulerKind, Record<string, unknown>> = {
  ddim: {
    ...NOISE,
    ...THRESHOLDING,
    clip_sample: true,
    clip_sample_range: 1,
    set_alpha_to_one: true,
    steps_offset: 0,
    timestep_spacing: 'leading',
    rescale_betas_zero_snr: false,
  },
  pndm: {
    ...NOISE,
    skip_prk_steps: false,
    set_alpha_to_one: false,
    timestep_spacing: 'leading',
    steps_offset: 0,
  },
  euler: {
    ...NOISE,
    ...SIGMAS,
    interpolation_type: 'linear',
    sigma_min: null,
    sigma_max: null,
    timestep_spacing: 'linspace',
    timestep_type: 'discrete',
    steps_offset: 0,
    rescale_betas_zero_snr: false,
    final_sigmas_type: 'zero',
  },
  'euler-a': { ...NOISE, timestep_spacing: 'linspace', steps_offset: 0, rescale_betas_zero_snr: false },
  'dpm++2m': {
    ...NOISE,
    ...SOLVER,
    algorithm_type: 'dpmsolver++',
    solver_type: 'midpoint',
    euler_at_final: false,
    use_lu_lambdas: false,
    lambda_min_clipped: Number.NEGATIVE_INFINITY,
    variance_type: null,
  },
  unipc: {
    ...NOISE,
    ...SOLVER,
    predict_x0: true,
    solver_type: 'bh2',
    disable_corrector: [],
    solver_p: null,
    use_dynamic_shifting: false,
    sigma_min: null,
    sigma_max: null,
    shift_terminal: null,
  },
  lcm: {
    ...LCM_NOISE,
    ...THRESHOLDING,
    original_inference_steps: 50,
    clip_sample: false,
    clip_sample_range: 1,
    set_alpha_to_one: true,
    steps_offset: 0,
    timestep_spacing: 'leading',
    timestep_scaling: 10,
    rescale_betas_zero_snr: false,
  },
}

/** Keys that are read even where the class does not know them: diffusers keeps the file's for the sigmas' range. */
const HIDDEN = ['sigma_min', 'sigma_max']

/**
 * The noise that a model was trained with, from its scheduler's file.
 *
 * @throws SwapError `SWAP_SCHEDULER_CONFIG`, `SWAP_SCHEDULER_UNSUPPORTED`
 */
export function noiseSpec(file: SchedulerFile): NoiseSpec {
  const keys = new Keys(file.className, {
    ...(KINDS[file.className] === 'lcm' ? LCM_NOISE : NOISE),
    rescale_betas_zero_snr: false,
    ...given(file, [...Object.keys(NOISE), 'rescale_betas_zero_snr']),
  })
  const trainTimesteps = keys.integer('num_train_timesteps', 1)
  const trainedBetas = keys.get('trained_betas') ?? []
  if (!Array.isArray(trainedBetas) || !trainedBetas.every(Number.isFinite)) {
    throw keys.invalid('trained_betas', 'a list of numbers')
  }
  if (trainedBetas.length > 0 && trainedBetas.length !== trainTimesteps) {
    throw keys.invalid('trained_betas', `a list of num_train_timesteps, ${trainTimesteps}`)
  }
  const predictionType = keys.oneOf('prediction_type', ['epsilon', 'v_prediction', 'sample'])
  if (file.config.timestep_type === 'continuous' && predictionType === 'v_prediction') {
    // Its U-Net is asked with the noise itself, from which neither a learning nor the stages of a subject go.
    const what = `scheduler_config.json (${file.className}): timestep_type "continuous" with v_prediction`
    throw new SwapError('SWAP_SCHEDULER_UNSUPPORTED', `${what} is not supported`, {
      hint: 'choose a model that was trained on whole timesteps',
    })
  }
  return {
    trainTimesteps,
    ...betas(keys),
    trainedBetas,
    zeroTerminalSnr: keys.boolean('rescale_betas_zero_snr'),
    predictionType,
  }
}

function betas(keys: Keys): Pick<NoiseSpec, 'betaStart' | 'betaEnd' | 'betaSchedule'> {
  return {
    betaStart: keys.number('beta_start'),
    betaEnd: keys.number('beta_end'),
    betaSchedule: keys.oneOf('beta_schedule', ['linear', 'scaled_linear', 'squaredcos_cap_v2']),
  }
}

/**
 * The scheduler to sample with: the file's own, or another by name with the same file, as diffusers' `from_config`.
 *
 * @param noise the model's; of it `zeroTerminalSnr` depends on the class, and an LCM's betas where the file has none
 * @param name default: the file's own class
 * @throws SwapError `SWAP_SCHEDULER_UNSUPPORTED`, `SWAP_SCHEDULER_CONFIG`
 */
export function schedulerSpec(file: SchedulerFile, noise: NoiseSpec, name?: SchedulerName): SchedulerSpec {
  const kind = name === undefined ? ownKind(file) : name === 'dpm++2m-karras' ? 'dpm++2m' : name
  const known = DEFAULTS[kind]
  const values: Record<string, unknown> = { ...known, ...given(file, [...Object.keys(known), ...HIDDEN]) }
  if (name === 'dpm++2m-karras') Object.assign(values, SIGMAS, { use_karras_sigmas: true })
  const keys = new Keys(file.className, values)
  refuse(keys, kind, noise)
  return {
    kind,
    noise: { ...noise, ...(kind === 'lcm' && betas(keys)), zeroTerminalSnr: keys.boolean('rescale_betas_zero_snr') },
    timestepSpacing: keys.oneOf('timestep_spacing', ['leading', 'trailing', 'linspace']),
    stepsOffset: keys.integer('steps_offset', 0),
    setAlphaToOne: keys.boolean('set_alpha_to_one', true),
    clipSample: keys.boolean('clip_sample'),
    clipSampleRange: keys.number('clip_sample_range', 1),
    thresholding: keys.boolean('thresholding'),
    dynamicThresholdingRatio: keys.number('dynamic_thresholding_ratio', 0.995),
    sampleMaxValue: keys.number('sample_max_value', 1),
    skipPrkSteps: keys.boolean('skip_prk_steps'),
    sigmas: sigmas(keys),
    interpolationType: keys.oneOf('interpolation_type', ['linear', 'log_linear'], 'linear'),
    finalSigmasType: keys.oneOf('final_sigmas_type', ['zero', 'sigma_min'], 'zero'),
    timestepType: keys.oneOf('timestep_type', ['discrete', 'continuous'], 'discrete'),
    sigmaMin: keys.number('sigma_min', -1),
    sigmaMax: keys.number('sigma_max', -1),
    solverOrder: keys.integer('solver_order', 1, 2),
    algorithmType: algorithm(keys),
    solverType: solver(keys, kind),
    lowerOrderFinal: keys.boolean('lower_order_final', true),
    eulerAtFinal: keys.boolean('euler_at_final'),
    // The engine's smallest; diffusers writes -Infinity.
    lambdaMinClipped: Math.max(keys.number('lambda_min_clipped', -1e30), -1e30),
    predictX0: keys.boolean('predict_x0', true),
    disableCorrector: keys.integers('disable_corrector'),
    originalSteps: keys.integer('original_inference_steps', 1, 50),
    timestepScaling: keys.number('timestep_scaling', 10),
  }
}

function ownKind({ className }: SchedulerFile): SchedulerKind {
  const kind = Object.hasOwn(KINDS, className) ? KINDS[className] : undefined
  if (kind) return kind
  throw new SwapError('SWAP_SCHEDULER_UNSUPPORTED', `the model's scheduler ${show(className)} is not supported`, {
    hint: "choose one by name, e.g. 'ddim', 'euler' or 'dpm++2m'",
  })
}

/** The file's values for these keys, less those that diffusers noted as defaults of the file's own class. */
function given({ config }: SchedulerFile, keys: string[]): Record<string, unknown> {
  const noted = config._use_default_values
  const defaults = Array.isArray(noted) ? noted : []
  return Object.fromEntries(
    keys.filter((key) => Object.hasOwn(config, key) && !defaults.includes(key)).map((key) => [key, config[key]]),
  )
}

/** What diffusers would refuse, and what the engine has no word for. */
function refuse(keys: Keys, kind: SchedulerKind, noise: NoiseSpec): void {
  for (const key of ['use_lu_lambdas', 'use_flow_sigmas', 'use_dynamic_shifting']) {
    if (keys.boolean(key)) throw keys.unsupported(key)
  }
  for (const key of ['solver_p', 'shift_terminal']) if (keys.get(key) != null) throw keys.unsupported(key)
  // A learnt variance doubles the U-Net's channels; the key matters for models that predict epsilon only.
  if (keys.get('variance_type') != null && noise.predictionType === 'epsilon') throw keys.unsupported('variance_type')
  if ((kind === 'pndm' || kind === 'euler-a') && noise.predictionType === 'sample') {
    throw new SwapError('SWAP_SCHEDULER_UNSUPPORTED', `'${kind}' cannot sample a model that predicts the sample`, {
      hint: "choose another scheduler, e.g. 'ddim'",
    })
  }
  if (algorithm(keys) === 'dpmsolver' && keys.get('final_sigmas_type') === 'zero') {
    throw keys.unsupported('algorithm_type', "it needs final_sigmas_type 'sigma_min'")
  }
}

function sigmas(keys: Keys): SchedulerSpec['sigmas'] {
  const chosen = (['karras', 'exponential', 'beta'] as const).filter((kind) => keys.boolean(`use_${kind}_sigmas`))
  if (chosen.length > 1) throw keys.unsupported(`use_${chosen[1]}_sigmas`, `use_${chosen[0]}_sigmas is true too`)
  return chosen[0] ?? 'default'
}

function algorithm(keys: Keys): SchedulerSpec['algorithmType'] {
  // diffusers reads DEIS' files as its nearest relation.
  if (keys.get('algorithm_type') === 'deis') return 'dpmsolver++'
  return keys.oneOf('algorithm_type', ['dpmsolver++', 'dpmsolver', 'sde-dpmsolver++'], 'dpmsolver++')
}

function solver(keys: Keys, kind: SchedulerKind): SchedulerSpec['solverType'] {
  const value = keys.get('solver_type') ?? 'midpoint'
  // Each class reads the other's types as its own default.
  if (kind === 'unipc') {
    if (['midpoint', 'heun', 'logrho'].includes(String(value))) return 'bh2'
    return keys.oneOf('solver_type', ['bh1', 'bh2'])
  }
  if (['bh1', 'bh2', 'logrho'].includes(String(value))) return 'midpoint'
  return keys.oneOf('solver_type', ['midpoint', 'heun'], 'midpoint')
}

/** Resolved values with their types checked; a key that the class does not know takes what is neutral. */
class Keys {
  readonly #className: string
  readonly #values: Record<string, unknown>

  constructor(className: string, values: Record<string, unknown>) {
    this.#className = className
    this.#values = values
  }

  get(key: string): unknown {
    return this.#values[key]
  }

  invalid(key: string, expected: string): SwapError {
    return new SwapError(
      'SWAP_SCHEDULER_CONFIG',
      `scheduler_config.json (${this.#className}): ${key} is ${show(this.get(key))}, not ${expected}`,
      { hint: 'get the file again, or correct it' },
    )
  }

  unsupported(key: string, hint = "choose another scheduler by name, e.g. 'ddim'"): SwapError {
    return new SwapError(
      'SWAP_SCHEDULER_UNSUPPORTED',
      `scheduler_config.json (${this.#className}): ${key} ${show(this.get(key))} is not supported`,
      { hint },
    )
  }

  number(key: string, neutral?: number): number {
    const value = this.get(key) ?? neutral
    if (typeof value !== 'number' || Number.isNaN(value)) throw this.invalid(key, 'a number')
    return value
  }

  integer(key: string, min: number, neutral?: number): number {
    const value = this.get(key) ?? neutral
    if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > 1e6) {
      throw this.invalid(key, `a whole number from ${min} to 1000000`)
    }
    return value as number
  }

  integers(key: string): number[] {
    const value = this.get(key) ?? []
    if (!Array.isArray(value) || !value.every(Number.isSafeInteger)) throw this.invalid(key, 'a list of whole numbers')
    return value
  }

  boolean(key: string, neutral = false): boolean {
    const value = this.get(key) ?? neutral
    if (typeof value !== 'boolean') throw this.invalid(key, 'true or false')
    return value
  }

  oneOf<const T extends string>(key: string, words: readonly T[], neutral?: T): T {
    const value = this.get(key) ?? neutral
    if (typeof value !== 'string') throw this.invalid(key, 'a string')
    const word = words.find((one) => one === value)
    if (word === undefined) throw this.unsupported(key)
    return word
  }
}
