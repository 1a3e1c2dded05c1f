/** Whole pictures with subjects in the prompt, against the same steps by tools/reference/method.py. */
import { expect, test } from 'vitest'
import { type SchedulerName, schedulerSpec } from '../../lib/model/index.ts'
import { encodePrompt } from '../../lib/prompt/index.ts'
import { describeParity, reference, shareOff, Tensors, withEngine } from './support.ts'

/** What subjects.py says of a case. */
interface Case {
  model: string
  prompt: string
  negative: string
  subjects: { name: string; class_word: string; stages: number }[]
  scheduler: SchedulerName
  steps: number
  guidance: number
  seeds: number[]
  width: number
  height: number
}

const { files, model } = await reference('subjects')
const cases = await Promise.all(
  files.map(async (file) => {
    const tensors = await Tensors.read(file)
    return { tensors, given: JSON.parse(tensors.metadata.case ?? '') as Case }
  }),
)

describeParity('pictures of subjects take each stage’s vectors, K and V apart', () => {
  for (const { tensors, given } of cases) {
    const { model: name, scheduler, steps, guidance, seeds, width, height } = given
    test(`${name}, ${scheduler}: ${given.prompt}`, async () => {
      await withEngine(model(name), 'float32', async ({ model: read, engine }) => {
        const placeholders = given.subjects.map((subject) => ({
          name: subject.name,
          classWord: subject.class_word,
          tokens: tensors.get(`k.${subject.name}`).shape[1]!,
        }))
        const generate = async (kind: 'k' | 'v') => {
          const request = {
            prompt: encodePrompt(read.tokenizers, given.prompt, placeholders),
            negative: encodePrompt(read.tokenizers, given.negative, placeholders),
            subjects: given.subjects.map((subject, i) => ({
              stages: subject.stages,
              tokens: placeholders[i]!.tokens,
              k: [tensors.get(`k.${subject.name}`).data],
              v: [tensors.get(`${kind}.${subject.name}`).data],
            })),
            scheduler: schedulerSpec(read.scheduler, read.spec.noise, scheduler),
            steps,
            guidanceScale: guidance,
            seeds,
            width,
            height,
            batch: 0,
          }
          return (await engine.generate(request, () => {}).promise).images
        }
        const expected = tensors.get('images').data
        expect(shareOff(await generate('v'), expected)).toBeLessThanOrEqual(0.001)
        // With K's vectors for V's too it is another picture, unless a subject shares them.
        if (given.subjects.every((subject) => subject.stages > 1)) {
          expect(shareOff(await generate('k'), expected)).toBeGreaterThan(0.01)
        }
      })
    })
  }
})
