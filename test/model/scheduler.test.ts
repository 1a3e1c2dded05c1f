import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import type { SwapError } from '../../lib/errors.ts'
import { parseJson } from '../../lib/model/json.ts'
import { noiseSpec, type SchedulerName, schedulerSpec } from '../../lib/model/scheduler.ts'
import type { SchedulerSpec } from '../../lib/native.ts'

type Values = Record<string, unknown>
const golden = parseJson(readFileSync(new URL('goldens/scheduler_configs.json', import.meta.url), 'utf8')) as {
  cases: Record<string, { config: Values; resolved: Record<SchedulerName, Values> }>
}

const file = (config: Values) => ({ className: String(config._class_name), config })

/** What diffusers calls each value of a spec. */
const NAMES: Record<string, (spec: SchedulerSpec) => unknown> = {
  num_train_timesteps: (spec) => spec.noise.trainTimesteps,
  beta_start: (spec) => spec.noise.betaStart,
  beta_end: (spec) => spec.noise.betaEnd,
  beta_schedule: (spec) => spec.noise.betaSchedule,
  trained_betas: (spec) => (spec.noise.trainedBetas.length > 0 ? spec.noise.trainedBetas : null),
  prediction_type: (spec) => spec.noise.predictionType,
  rescale_betas_zero_snr: (spec) => spec.noise.zeroTerminalSnr,
  timestep_spacing: (spec) => spec.timestepSpacing,
  timestep_type: (spec) => spec.timestepType,
  steps_offset: (spec) => spec.stepsOffset,
  set_alpha_to_one: (spec) => spec.setAlphaToOne,
  clip_sample: (spec) => spec.clipSample,
  clip_sample_range: (spec) => spec.clipSampleRange,
  thresholding: (spec) => spec.thresholding,
  dynamic_thresholding_ratio: (spec) => spec.dynamicThresholdingRatio,
  sample_max_value: (spec) => spec.sampleMaxValue,
  skip_prk_steps: (spec) => spec.skipPrkSteps,
  use_karras_sigmas: (spec) => spec.sigmas === 'karras',
  use_exponential_sigmas: (spec) => spec.sigmas === 'exponential',
  use_beta_sigmas: (spec) => spec.sigmas === 'beta',
  interpolation_type: (spec) => spec.interpolationType,
  final_sigmas_type: (spec) => spec.finalSigmasType,
  sigma_min: (spec) => (spec.sigmaMin < 0 ? null : spec.sigmaMin),
  sigma_max: (spec) => (spec.sigmaMax < 0 ? null : spec.sigmaMax),
  solver_order: (spec) => spec.solverOrder,
  algorithm_type: (spec) => spec.algorithmType,
  solver_type: (spec) => spec.solverType,
  lower_order_final: (spec) => spec.lowerOrderFinal,
  euler_at_final: (spec) => spec.eulerAtFinal,
  lambda_min_clipped: (spec) => (spec.lambdaMinClipped <= -1e30 ? Number.NEGATIVE_INFINITY : spec.lambdaMinClipped),
  predict_x0: (spec) => spec.predictX0,
  disable_corrector: (spec) => spec.disableCorrector,
}

/** Keys without a word in the spec, and the only values that the golden has for them. */
const NEUTRAL: Values = {
  use_lu_lambdas: false,
  use_flow_sigmas: false,
  flow_shift: 1,
  variance_type: null,
  use_dynamic_shifting: false,
  time_shift_type: 'exponential',
  solver_p: null,
  shift_terminal: null,
}

describe.each(Object.entries(golden.cases))('scheduler_config.json "%s"', (_, { config, resolved }) => {
  test.each(Object.entries(resolved))('as %s resolves as in diffusers', (name, values) => {
    const spec = schedulerSpec(file(config), noiseSpec(file(config)), name as SchedulerName)
    const ours = Object.fromEntries(
      Object.keys(values).map((key) => [key, key in NAMES ? NAMES[key]!(spec) : NEUTRAL[key]]),
    )
    expect(ours).toEqual(values)
  })
})

const spec = (config: Values, name?: SchedulerName) => schedulerSpec(file(config), noiseSpec(file(config)), name)

function failure(run: () => unknown): SwapError {
  try {
    run()
  } catch (error) {
    return error as SwapError
  }
  throw new Error('nothing was thrown')
}

test("the file's own class is the default", () => {
  const kinds = Object.values(golden.cases)
    .filter(({ config }) => config._class_name !== 'DEISMultistepScheduler')
    .map(({ config }) => [config._class_name, spec(config).kind])
  expect(Object.fromEntries(kinds)).toEqual({
    DDIMScheduler: 'ddim',
    PNDMScheduler: 'pndm',
    EulerDiscreteScheduler: 'euler',
    DPMSolverMultistepScheduler: 'dpm++2m',
    UniPCMultistepScheduler: 'unipc',
  })
  expect(spec({ _class_name: 'EulerAncestralDiscreteScheduler' }).kind).toBe('euler-a')
})

test('Karras by name goes before the sigmas of the file', () => {
  const config = { _class_name: 'EulerDiscreteScheduler', use_beta_sigmas: true }
  expect(spec(config, 'dpm++2m').sigmas).toBe('beta')
  expect(spec(config, 'dpm++2m-karras').sigmas).toBe('karras')
})

test('a model that is asked with the noise itself is refused, whatever the scheduler', () => {
  const config = { _class_name: 'EulerDiscreteScheduler', timestep_type: 'continuous', prediction_type: 'v_prediction' }
  expect(failure(() => noiseSpec(file(config))).code).toBe('SWAP_SCHEDULER_UNSUPPORTED')
  expect(spec({ ...config, prediction_type: 'epsilon' }).timestepType).toBe('continuous')
})

test('an LCM takes its steps from the schedule of its file', () => {
  const config = { _class_name: 'LCMScheduler', original_inference_steps: 40, timestep_scaling: 8 }
  expect(spec(config)).toMatchObject({ kind: 'lcm', originalSteps: 40, timestepScaling: 8 })
  expect(spec(config).noise).toMatchObject({ betaStart: 0.00085, betaSchedule: 'scaled_linear' })
  expect(spec({ _class_name: 'DDIMScheduler' }, 'lcm')).toMatchObject({ originalSteps: 50, timestepScaling: 10 })
  expect(failure(() => spec({ ...config, original_inference_steps: 0 })).code).toBe('SWAP_SCHEDULER_CONFIG')
})

test('another class than the seven needs a name', () => {
  const error = failure(() => spec({ _class_name: 'LMSDiscreteScheduler' }))
  expect(error.code).toBe('SWAP_SCHEDULER_UNSUPPORTED')
  expect(error.message).toContain('LMSDiscreteScheduler')
  expect(spec({ _class_name: 'LMSDiscreteScheduler' }, 'euler').kind).toBe('euler')
  expect(failure(() => spec({ _class_name: 'constructor' })).code).toBe('SWAP_SCHEDULER_UNSUPPORTED')
})

test.each<[string, Values, SchedulerName]>([
  ['use_lu_lambdas', { use_lu_lambdas: true }, 'dpm++2m'],
  ['use_flow_sigmas', { use_flow_sigmas: true }, 'unipc'],
  ['use_dynamic_shifting', { use_dynamic_shifting: true }, 'unipc'],
  ['shift_terminal', { shift_terminal: 0.1 }, 'unipc'],
  ['solver_p', { solver_p: { _class_name: 'DDIMScheduler' } }, 'unipc'],
  ['variance_type', { variance_type: 'learned_range' }, 'dpm++2m'],
  ['algorithm_type', { algorithm_type: 'sde-dpmsolver' }, 'dpm++2m'],
  ['algorithm_type', { algorithm_type: 'dpmsolver' }, 'dpm++2m'],
  ['solver_type', { solver_type: 'rk4' }, 'unipc'],
  ['use_exponential_sigmas', { use_karras_sigmas: true, use_exponential_sigmas: true }, 'euler'],
  ['timestep_spacing', { timestep_spacing: 'cosine' }, 'ddim'],
  ['prediction_type', { prediction_type: 'flow_prediction' }, 'ddim'],
  ['beta_schedule', { beta_schedule: 'sigmoid' }, 'ddim'],
])('%s with an unsupported value is refused by name', (key, config, name) => {
  const error = failure(() => spec({ _class_name: 'DDIMScheduler', ...config }, name))
  expect(error.code).toBe('SWAP_SCHEDULER_UNSUPPORTED')
  expect(error.message).toContain(key)
})

test('a value that the chosen class does not read is passed over', () => {
  const config = { _class_name: 'DPMSolverMultistepScheduler', use_lu_lambdas: true, algorithm_type: 'sde-dpmsolver' }
  expect(spec(config, 'ddim').kind).toBe('ddim')
})

test.each(['pndm', 'euler-a'] as const)('%s refuses a model that predicts the sample', (name) => {
  const config = { _class_name: 'DDIMScheduler', prediction_type: 'sample' }
  expect(failure(() => spec(config, name)).code).toBe('SWAP_SCHEDULER_UNSUPPORTED')
  expect(spec(config).noise.predictionType).toBe('sample')
})

test.each<[string, Values]>([
  ['num_train_timesteps', { num_train_timesteps: 0 }],
  ['num_train_timesteps', { num_train_timesteps: 1e12 }],
  ['beta_start', { beta_start: 'small' }],
  ['steps_offset', { steps_offset: 0.5 }],
  ['clip_sample', { clip_sample: 1 }],
  ['trained_betas', { trained_betas: [1, 2] }],
  ['trained_betas', { trained_betas: 'x' }],
])('%s of a wrong kind is an error with its value', (key, config) => {
  const error = failure(() => spec({ _class_name: 'DDIMScheduler', ...config }))
  expect(error.code).toBe('SWAP_SCHEDULER_CONFIG')
  expect(error.message).toContain(key)
})
