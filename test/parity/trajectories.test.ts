/** Every scheduler's steps against diffusers, from models' own files through schedulerSpec to the engine. */
import { afterAll, beforeAll, expect, test } from 'vitest'
import { noiseSpec, type SchedulerName, schedulerSpec } from '../../lib/model/index.ts'
import { parseJson } from '../../lib/model/json.ts'
import { describeParity, Opened, reference, relativeError, Tensors } from './support.ts'

/** What trajectories.py says of a case. */
interface Case {
  file: string
  config: Record<string, unknown>
  scheduler: SchedulerName | null
  steps: number
  begin?: number
}

const { files } = await reference('trajectories')
const cases = await Promise.all(
  files.map(async (file) => {
    const tensors = await Tensors.read(file)
    // Python writes infinite numbers as its own words, as it does in schedulers' files.
    return { tensors, given: parseJson(tensors.metadata.case ?? '') as Case }
  }),
)

/** diffusers keeps its tables in fp32, and its solvers' coefficients are differences of logarithms. */
const TOLERANCE = 1e-4

describeParity('trajectories are those of diffusers', () => {
  let opened: Opened
  // No number of the model is used: a scheduler only needs an engine to run in.
  beforeAll(async () => {
    opened = await Opened.open('mini')
  })
  afterAll(() => opened?.close())

  for (const { tensors, given } of cases) {
    const { file, config, scheduler, steps, begin } = given
    const from = begin ? ` from call ${begin}` : ''
    test(`${file}'s file, ${scheduler ?? 'its own class'}, ${steps} steps${from}`, async () => {
      const described = { className: String(config._class_name), config }
      const got = await opened.evaluate({
        op: 'trajectory',
        inputs: ['sample', 'outputs', 'seed', ...(begin ? ['image', 'begin'] : [])].map((name) => tensors.get(name)),
        scheduler: schedulerSpec(described, noiseSpec(described), scheduler ?? undefined),
        steps,
      })
      expect(relativeError(got('timesteps'), tensors.get('timesteps').data)).toBeLessThan(1e-6)
      for (const name of ['inputs', 'samples']) {
        expect(relativeError(got(name), tensors.get(name).data), name).toBeLessThanOrEqual(TOLERANCE)
      }
    })
  }
})
