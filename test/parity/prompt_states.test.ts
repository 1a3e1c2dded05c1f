/** What the engine makes of a prompt of any chunks, weights and subjects, against tools/reference/prompt_states.py. */
import { expect, test } from 'vitest'
import { schedulerSpec } from '../../lib/model/index.ts'
import type { PromptTokens } from '../../lib/native.ts'
import { describeParity, reference, relativeError, Tensors, withEngine } from './support.ts'

/** What prompt_states.py says of a case. */
interface Case {
  model: string
  timestep: number
  inPooled: boolean
  prompt: PromptTokens
}

const { files, model } = await reference('prompt_states')
const cases = await Promise.all(
  files.map(async (file) => {
    const tensors = await Tensors.read(file)
    return { tensors, given: JSON.parse(tensors.metadata.case ?? '') as Case }
  }),
)
const TOLERANCE = 1e-4

describeParity('a prompt becomes text states and a pooled state', () => {
  for (const { tensors, given } of cases) {
    const { model: name, prompt, inPooled, timestep } = given
    const has = (what: string): boolean => tensors.all.some((tensor) => tensor.name === what)
    const weights = has('weights') ? tensors.get('weights').data : undefined
    const slots = prompt.slots.map(({ position }) => position).join(', ')
    const title = `${prompt.ids[0]!.length} positions, subject at [${slots}]${inPooled ? ' (pooled too)' : ''}`
    test(`${name}: ${title}${weights ? ', weights' : ''}${prompt.zero ? ', zeros' : ''}${prompt.isolate ? ', isolated' : ''}`, async () => {
      await withEngine(model(name), 'float32', async (opened) => {
        const vectors = (kind: string) => tensors.under(`${kind}.`).map(({ data }) => data)
        const subject = { stages: 4, tokens: 2, inPooled, k: vectors('k'), v: vectors('v') }
        const got = await opened.evaluate({
          op: 'prompt',
          inputs: [{ name: 'timesteps', shape: [1], data: new Float32Array([timestep]) }],
          generate: {
            prompt: { ...prompt, weights },
            negative: prompt,
            subjects: prompt.slots.length > 0 ? [subject] : [],
            scheduler: schedulerSpec(opened.model.scheduler, opened.model.spec.noise),
            steps: 1,
            guidanceScale: 1,
            seeds: [0],
            width: 64,
            height: 64,
            batch: 1,
          },
        })
        const outputs = { states_k: 'keys', states_v: 'values', ...(has('pooled') && { pooled: 'pooled' }) }
        for (const [output, expected] of Object.entries(outputs)) {
          const wanted = tensors.get(expected).data
          if (prompt.zero) expect(got(output), output).toEqual(wanted)
          else expect(relativeError(got(output), wanted), output).toBeLessThanOrEqual(TOLERANCE)
        }
      })
    })
  }
})
