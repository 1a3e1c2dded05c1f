/** Long prompts and weights: text states, and pictures drawn from them, against tools/reference/prompts.py. */
import { expect, test } from 'vitest'
import { schedulerSpec } from '../../lib/model/index.ts'
import type { GenerateRequest } from '../../lib/native.ts'
import { encodePrompts } from '../../lib/prompt/index.ts'
import { describeParity, reference, relativeError, shareOff, Tensors, withEngine } from './support.ts'

/** What prompts.py says of a case. */
interface Case {
  model: string
  prompt: string
  negative: string
  subjects: { name: string; class_word: string; stages: number }[]
  weights: boolean
  timestep: number
  steps: number
  guidance: number
  seed: number
  width: number
  height: number
}

const { files, model } = await reference('prompts')
const cases = await Promise.all(
  files.map(async (file) => {
    const { metadata } = await Tensors.read(file)
    return { file, given: JSON.parse(metadata.case ?? '') as Case }
  }),
)

describeParity('prompts of any length, with and without weights', () => {
  for (const { file, given } of cases) {
    const { model: name, weights, steps, guidance, seed, width, height, timestep } = given
    const text = given.prompt.length > 40 ? `${given.prompt.slice(0, 20)} … ${given.prompt.slice(-20)}` : given.prompt
    test(`${name}, ${JSON.stringify(text)}${weights ? ', weights' : ''}`, async () => {
      const tensors = await Tensors.read(file)
      await withEngine(model(name), 'float32', async (opened) => {
        const { model: read, engine } = opened
        const subjects = given.subjects.map(({ name, class_word, stages }) => {
          const [k, v] = [tensors.get(`k.${name}`), tensors.get(`v.${name}`)]
          return { name, classWord: class_word, stages, tokens: k.shape[1]!, k: [k.data], v: [v.data] }
        })
        const { prompt, negative } = given
        const request: GenerateRequest = {
          ...encodePrompts(read.tokenizers, { prompt, negative }, subjects, { weights }),
          subjects: subjects.map(({ stages, tokens, k, v }) => ({ stages, tokens, k, v })),
          scheduler: schedulerSpec(read.scheduler, read.spec.noise),
          steps,
          guidanceScale: guidance,
          seeds: [seed],
          width,
          height,
          batch: 0,
        }
        const inputs = [{ name: 'timesteps', shape: [1], data: Float32Array.of(timestep) }]
        const got = await opened.evaluate({ op: 'prompt', inputs, generate: request })
        for (const part of ['k', 'v']) {
          expect(relativeError(got(`states_${part}`), tensors.get(`states.${part}`).data), part).toBeLessThan(1e-4)
        }
        const swapped = { ...request, prompt: request.negative }
        const unwanted = await opened.evaluate({ op: 'prompt', inputs, generate: swapped })
        expect(relativeError(unwanted('states_k'), tensors.get('negative').data), 'negative').toBeLessThan(1e-4)
        if (subjects.length > 0) return
        const { images } = await engine.generate(request, () => {}).promise
        expect(shareOff(images, tensors.get('images').data)).toBeLessThanOrEqual(0.001)
      })
    })
  }
})
