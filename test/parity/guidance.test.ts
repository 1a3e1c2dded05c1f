/** The guided output rescaled, and models that are told the guidance scale, against diffusers' pipelines. */
import { expect, test } from 'vitest'
import { type SchedulerName, schedulerSpec } from '../../lib/model/index.ts'
import { encodePrompts } from '../../lib/prompt/index.ts'
import { describeParity, reference, shareOff, Tensors, withEngine } from './support.ts'

/** What guidance.py says of a case. */
interface Case {
  model: string
  scheduler: SchedulerName | null
  rescale: number
  guidance: number
  prompt: string
  negative: string
  steps: number
  seeds: number[]
  width: number
  height: number
}

const { files, model } = await reference('guidance')
const cases = await Promise.all(
  files.map(async (file) => {
    const { metadata } = await Tensors.read(file)
    return { file, given: JSON.parse(metadata.case ?? '') as Case }
  }),
)

describeParity('guidance is that of diffusers, within 1/255 on 99.9 % of values', () => {
  for (const { file, given } of cases) {
    const { model: name, scheduler, rescale, steps, guidance, seeds, width, height, prompt, negative } = given
    const title = `${name}, ${scheduler ?? 'its own scheduler'}, guidance ${guidance}, rescaled by ${rescale}`
    test(`${title}, ${width} x ${height}`, async () => {
      const expected = (await Tensors.read(file)).get('images').data
      await withEngine(model(name), 'float32', async ({ model: read, engine }) => {
        const request = {
          ...encodePrompts(read.tokenizers, { prompt, negative }, []),
          subjects: [],
          scheduler: schedulerSpec(read.scheduler, read.spec.noise, scheduler ?? undefined),
          steps,
          guidanceScale: guidance,
          guidanceRescale: rescale,
          seeds,
          width,
          height,
          batch: 0,
        }
        const { images } = await engine.generate(request, () => {}).promise
        expect(shareOff(images, expected)).toBeLessThanOrEqual(0.001)
      })
    })
  }
})
