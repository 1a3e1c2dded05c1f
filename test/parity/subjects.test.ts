/** Whole pictures with subjects in the prompt, against the same steps by tools/reference/method.py. */
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { type SchedulerName, schedulerSpec } from '../../lib/model/index.ts'
import type { NativeImage } from '../../lib/native.ts'
import { encodePrompt } from '../../lib/prompt/index.ts'
import { timeIds } from '../../lib/time_ids.ts'
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
  net: string | null
  isolate: boolean
}

const { folder, files, model } = await reference('subjects')
const cases = await Promise.all(
  files.map(async (file) => {
    const tensors = await Tensors.read(file)
    return { tensors, given: JSON.parse(tensors.metadata.case ?? '') as Case }
  }),
)

/** A case's control picture. */
function pictureOf(tensors: Tensors, { width, height }: Case): NativeImage {
  return { width, height, data: Uint8Array.from(tensors.get('control').data) }
}

describeParity('pictures of subjects take each stage’s vectors, K and V apart', () => {
  for (const { tensors, given } of cases) {
    const { model: name, scheduler, steps, guidance, seeds, width, height } = given
    const more = `${given.net ? `, ${given.net}` : ''}${given.isolate ? ', isolated' : ''}`
    test(`${name}, ${scheduler}${more}: ${given.prompt}`, async () => {
      await withEngine(model(name), 'float32', async (opened) => {
        const { model: read, engine } = opened
        if (given.net) await opened.attach(given.net, join(folder, 'nets', given.net))
        const controls = given.net
          ? [{ net: given.net, image: pictureOf(tensors, given), scale: 1, start: 0, end: 1 }]
          : []
        const placeholders = given.subjects.map((subject) => ({
          name: subject.name,
          classWord: subject.class_word,
          tokens: tensors.get(`k.${subject.name}`).shape[1]!,
        }))
        const vectors = (kind: string, name: string, encoder: number): Float32Array =>
          tensors.get(`${kind}.${name}${encoder === 0 ? '' : `.${encoder}`}`).data
        const generate = async (kind: 'k' | 'v', isolate = given.isolate) => {
          const request = {
            prompt: encodePrompt(read.tokenizers, given.prompt, placeholders, { isolate }),
            negative: encodePrompt(read.tokenizers, given.negative, placeholders, { isolate }),
            subjects: given.subjects.map((subject, i) => ({
              stages: subject.stages,
              tokens: placeholders[i]!.tokens,
              k: read.tokenizers.map((_, encoder) => vectors('k', subject.name, encoder)),
              v: read.tokenizers.map((_, encoder) => vectors(kind, subject.name, encoder)),
            })),
            scheduler: schedulerSpec(read.scheduler, read.spec.noise, scheduler),
            steps,
            guidanceScale: guidance,
            seeds,
            width,
            height,
            batch: 0,
            controls,
            timeIds: timeIds(read, { width, height }),
          }
          return (await engine.generate(request, () => {}).promise).images
        }
        const expected = tensors.get('images').data
        expect(shareOff(await generate('v'), expected)).toBeLessThanOrEqual(0.001)
        // With K's vectors for V's too it is another picture, unless a subject shares them.
        if (given.subjects.every((subject) => subject.stages > 1)) {
          expect(shareOff(await generate('k'), expected)).toBeGreaterThan(0.01)
        }
        if (given.isolate) expect(shareOff(await generate('v', false), expected)).toBeGreaterThan(0.01)
      })
    })
  }
})
