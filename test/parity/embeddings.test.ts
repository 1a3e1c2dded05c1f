/** Whole pictures with Textual Inversion files in the prompt, against diffusers' load_textual_inversion. */
import { expect, test } from 'vitest'
import { schedulerSpec } from '../../lib/model/index.ts'
import { readSafetensors } from '../../lib/model/safetensors.ts'
import { encodePrompt } from '../../lib/prompt/index.ts'
import { Subject } from '../../lib/subject.ts'
import { timeIds } from '../../lib/time_ids.ts'
import { describeParity, reference, shareOff, Tensors, withEngine } from './support.ts'

/** What textual_inversion.py says of a case. */
interface Case {
  model: string
  prompt: string
  negative: string
  format: string
  tokens: number
  steps: number
  guidance: number
  seeds: number[]
  width: number
  height: number
}

const { files, model } = await reference('textual_inversion')
const cases = await Promise.all(
  files.map(async (file) => {
    const tensors = await Tensors.read(file)
    return { file, tensors, given: JSON.parse(tensors.metadata.case ?? '') as Case }
  }),
)

describeParity(
  'pictures of other programs’ embeddings are those of diffusers, within 1/255 on 99.9 % of values',
  () => {
    for (const { file, tensors, given } of cases) {
      const { model: name, steps, guidance, seeds, width, height } = given
      test(`${name}, ${given.tokens} vectors, ${given.format}: ${given.prompt}`, async () => {
        const path = file.replace('.safetensors', '.embedding')
        const loaded = await Subject.load(path)
        // Its own file, and what it is exported as, say the same.
        const whole = await Subject.load(loaded.toBuffer())
        const exported = new Map(
          readSafetensors(whole.toBuffer({ format: 'diffusers' })).tensors.map((tensor) => [tensor.name, tensor]),
        )
        const names = given.format === 'pair' ? ['clip_l', 'clip_g'] : [...exported.keys()]
        expect(names).toHaveLength(exported.size)
        for (const [encoder, name] of names.entries()) {
          const shape = [given.tokens, loaded.widths[encoder]]
          expect(exported.get(name)).toMatchObject({ shape, data: loaded.vectors.k[encoder] })
        }
        const { classWord, tokens, vectors } = whole
        const subjects = [{ name: 'cat-toy', classWord, tokens }]
        await withEngine(model(name), 'float32', async ({ model: read, engine }) => {
          const { images } = await engine.generate(
            {
              prompt: encodePrompt(read.tokenizers, given.prompt, subjects),
              negative: encodePrompt(read.tokenizers, given.negative, subjects),
              subjects: [vectors],
              scheduler: schedulerSpec(read.scheduler, read.spec.noise, 'ddim'),
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
          expect(shareOff(images, tensors.get('images').data)).toBeLessThanOrEqual(0.001)
        })
      })
    }
  },
)
