/** Whole pictures against diffusers' StableDiffusionPipeline and StableDiffusionXLPipeline: prompt, scheduler, guidance, noise, VAE. */
import { expect, test } from 'vitest'
import { type SchedulerName, schedulerSpec } from '../../lib/model/index.ts'
import { encodePrompt } from '../../lib/prompt/index.ts'
import { timeIds } from '../../lib/time_ids.ts'
import { describeParity, reference, shareOff, Tensors, withEngine } from './support.ts'

/** What pictures.py says of a case. */
interface Case {
  model: string
  scheduler: SchedulerName | null
  prompt: string
  negative: string | null
  steps: number
  guidance: number
  seeds: number[]
  width: number
  height: number
}

const { files, model } = await reference('pictures')
const cases = await Promise.all(
  files.map(async (file) => {
    const { metadata } = await Tensors.read(file)
    return { file, given: JSON.parse(metadata.case ?? '') as Case }
  }),
)

describeParity('pictures are those of diffusers, within 1/255 on 99.9 % of values', () => {
  for (const { file, given } of cases) {
    const { model: name, scheduler, steps, guidance, seeds, width, height } = given
    const title = `${name}, ${scheduler ?? 'its own scheduler'}, ${steps} steps, guidance ${guidance}`
    test(`${title}, ${width} x ${height}, seeds ${seeds.join(' ')}`, async () => {
      const expected = (await Tensors.read(file)).get('images').data
      await withEngine(model(name), 'float32', async ({ model: read, engine }) => {
        const prompt = encodePrompt(read.tokenizers, given.prompt, [])
        const zero = given.negative === null && read.zeroNegative
        const { images } = await engine.generate(
          {
            prompt,
            negative: zero ? { ...prompt, zero } : encodePrompt(read.tokenizers, given.negative ?? '', []),
            subjects: [],
            scheduler: schedulerSpec(read.scheduler, read.spec.noise, scheduler ?? undefined),
            steps,
            guidanceScale: guidance,
            seeds,
            width,
            height,
            batch: 0,
            timeIds: timeIds(read, { width, height }),
          },
          () => {},
        ).promise
        expect(images.map((image) => [image.width, image.height])).toEqual(seeds.map(() => [width, height]))
        expect(shareOff(images, expected)).toBeLessThanOrEqual(0.001)
      })
    })
  }
})
