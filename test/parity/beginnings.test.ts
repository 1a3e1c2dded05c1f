/** Pictures that begin from a picture, and inpainting, against diffusers' pipelines: strength, masks, the draws' order. */
import { expect, test } from 'vitest'
import { type SchedulerName, schedulerSpec } from '../../lib/model/index.ts'
import type { GenerateRequest } from '../../lib/native.ts'
import { encodePrompts } from '../../lib/prompt/index.ts'
import { timeIds } from '../../lib/time_ids.ts'
import { describeParity, reference, shareOff, Tensors, withEngine } from './support.ts'

/** What beginnings.py says of a case. */
interface Case {
  model: string
  scheduler: SchedulerName | null
  strength: number
  mask: boolean
  prompt: string
  negative: string
  steps: number
  guidance: number
  seeds: number[]
  width: number
  height: number
}

const { files, model } = await reference('beginnings')
const cases = await Promise.all(
  files.map(async (file) => {
    const { metadata } = await Tensors.read(file)
    return { file, given: JSON.parse(metadata.case ?? '') as Case }
  }),
)

describeParity('pictures that begin from a picture are those of diffusers, within 1/255 on 99.9 % of values', () => {
  for (const { file, given } of cases) {
    const { model: name, scheduler, strength, mask, steps, guidance, seeds, width, height } = given
    const title = `${name}, ${mask ? 'mask, ' : ''}${scheduler ?? 'its own scheduler'}, strength ${strength}`
    test(`${title}, ${steps} steps, guidance ${guidance}, ${width} x ${height}`, async () => {
      const tensors = await Tensors.read(file)
      await withEngine(model(name), 'float32', async ({ model: read, engine }) => {
        const request: GenerateRequest = {
          ...encodePrompts(read.tokenizers, { prompt: given.prompt, negative: given.negative }, []),
          subjects: [],
          scheduler: schedulerSpec(read.scheduler, read.spec.noise, scheduler ?? undefined),
          steps,
          guidanceScale: guidance,
          seeds,
          width,
          height,
          batch: 0,
          timeIds: timeIds(read, { width, height }),
          initial: {
            image: { width, height, data: Uint8Array.from(tensors.get('image').data) },
            strength,
            mask: mask ? tensors.get('mask').data.map((value) => value / 255) : new Float32Array(0),
          },
        }
        const { images } = await engine.generate(request, () => {}).promise
        expect(shareOff(images, tensors.get('images').data)).toBeLessThanOrEqual(0.001)
      })
    })
  }
})
