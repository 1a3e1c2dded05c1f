/** ControlNets against diffusers: residuals of odd configurations, two at once, and whole pictures. */
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readControl } from '../../lib/model/control.ts'
import { type SchedulerName, schedulerSpec } from '../../lib/model/index.ts'
import type { ControlImage, NativeTensor } from '../../lib/native.ts'
import { encodePrompt } from '../../lib/prompt/index.ts'
import { timeIds } from '../../lib/time_ids.ts'
import {
  concatenate,
  describeParity,
  deviation,
  largest,
  Opened,
  reference,
  relativeError,
  shareOff,
  Tensors,
  withEngine,
} from './support.ts'

/** What controls.py says of a picture. */
interface Case {
  model: string
  controls: { net: string; scale: number; start: number; end: number }[]
  scheduler: SchedulerName | null
  prompt: string
  negative: string
  steps: number
  guidance: number
  seeds: number[]
  width: number
  height: number
  strength: number | null
  mask: boolean
}

/** fp32 sums in another order differ by about 1e-6 here. */
const TOLERANCE = 1e-4

const { folder, files, model } = await reference('controls')
const isPicture = (file: string): boolean => basename(file).startsWith('picture-')

async function attach(opened: Opened, net: string): Promise<void> {
  const path = join(folder, 'nets', net)
  const { tensors } = await readControl(path, opened.model)
  const count = tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
  expect(await opened.attach(net, path)).toBe(count)
}

describeParity('residuals equal those of diffusers', () => {
  for (const file of files.filter((name) => !isPicture(name))) {
    describe(basename(file, '.safetensors'), () => {
      let tensors: Tensors
      let opened: Opened
      beforeAll(async () => {
        tensors = await Tensors.read(file)
        opened = await Opened.open(model(tensors.metadata.model!))
        for (const net of new Set([tensors.metadata.net!, tensors.metadata.other!])) await attach(opened, net)
      })
      afterAll(() => opened?.close())

      const residuals = (of: string): NativeTensor[] => tensors.under(`${of}.`)

      test('with K and V from different states, and from the same', async () => {
        const given = tensors.under('given.')
        const got = await opened.evaluate({ op: 'controlnet', control: tensors.metadata.net!, inputs: given })
        const expected = residuals('own')
        for (const { name, data } of expected) expect(relativeError(got(name), data)).toBeLessThanOrEqual(TOLERANCE)
        await expect(async () => got(`residual.${expected.length - 1}`)).rejects.toThrow('gave no')
        const shared = given.map((one) => (one.name === 'states_v' ? tensors.as('given.states_k', 'states_v') : one))
        const same = await opened.evaluate({ op: 'controlnet', control: tensors.metadata.net!, inputs: shared })
        for (const { name, data } of residuals('same')) {
          expect(relativeError(same(name), data)).toBeLessThanOrEqual(TOLERANCE)
        }
      })

      test('a second net’s, and what the U-Net makes of both', async () => {
        const given = tensors.under('given.')
        const got = await opened.evaluate({ op: 'controlnet', control: tensors.metadata.other!, inputs: given })
        const second = residuals('both').map(({ name, shape, data }) => {
          const own = tensors.get(`own.${name}`).data
          expect(
            relativeError(
              got(name).map((value, i) => own[i]! + value / 4),
              data,
            ),
          ).toBeLessThanOrEqual(TOLERANCE)
          return { name, shape, data }
        })
        const inputs = [...given.filter(({ name }) => name !== 'image'), ...second]
        const output = (await opened.evaluate({ op: 'unet', inputs }))('output')
        expect(relativeError(output, tensors.get('output').data)).toBeLessThanOrEqual(TOLERANCE)
        expect(relativeError(tensors.get('plain').data, tensors.get('output').data)).toBeGreaterThan(100 * TOLERANCE)
      })
    })
  }
})

describeParity('residuals in bfloat16 are at most twice as far from fp32 as those of diffusers in bfloat16', () => {
  for (const file of files.filter((name) => !isPicture(name))) {
    test(basename(file, '.safetensors'), async () => {
      const tensors = await Tensors.read(file)
      const { model: base, net } = tensors.metadata
      await withEngine(model(base!), 'bfloat16', async (opened) => {
        await attach(opened, net!)
        const inputs = [
          ...tensors.under('given.').filter(({ name }) => name !== 'states_v'),
          tensors.as('given.states_k', 'states_v'),
        ]
        const got = await opened.evaluate({ op: 'controlnet', control: net!, inputs })
        // Each residual by its own size, or the largest of them would stand for all.
        const exact = tensors.under('same.').map(({ name, data }) => ({ name, size: largest(data) }))
        const all = (from: (name: string) => Float32Array) =>
          concatenate(exact.map(({ name, size }) => from(name).map((value) => value / size)))
        const expected = all((name) => tensors.get(`same.${name}`).data)
        const theirs = deviation(
          all((name) => tensors.get(`bf16.${name}`).data),
          expected,
        )
        expect(deviation(all(got), expected)).toBeLessThanOrEqual(2 * theirs)
      })
    })
  }
})

describeParity('pictures with ControlNets are those of diffusers, within 1/255 on 99.9 % of values', () => {
  for (const file of files.filter(isPicture)) {
    test(basename(file), async () => {
      const tensors = await Tensors.read(file)
      const given = JSON.parse(tensors.metadata.case!) as Case
      const { scheduler, steps, guidance, seeds, width, height } = given
      await withEngine(model(given.model), 'float32', async (opened) => {
        const { model: read, engine } = opened
        for (const { net } of given.controls) await attach(opened, net)
        const initial =
          given.strength === null
            ? undefined
            : {
                image: { width, height, data: Uint8Array.from(tensors.get('image').data) },
                strength: given.strength,
                mask: given.mask ? tensors.get('mask').data.map((value) => value / 255) : new Float32Array(0),
              }
        const draw = async (controls: ControlImage[]) => {
          const request = {
            prompt: encodePrompt(read.tokenizers, given.prompt, []),
            negative: encodePrompt(read.tokenizers, given.negative, []),
            subjects: [],
            scheduler: schedulerSpec(read.scheduler, read.spec.noise, scheduler ?? undefined),
            steps,
            guidanceScale: guidance,
            seeds,
            width,
            height,
            batch: 0,
            timeIds: timeIds(read, { width, height }),
            controls,
            initial,
          }
          return (await engine.generate(request, () => {}).promise).images
        }
        const controls = given.controls.map((control, k) => ({
          ...control,
          image: { width, height, data: Uint8Array.from(tensors.get(`control.${k}`).data) },
        }))
        const expected = tensors.get('images').data
        expect(shareOff(await draw(controls), expected)).toBeLessThanOrEqual(0.001)
        // Each of them matters, and its window does.
        for (const [index, { start, end }] of controls.entries()) {
          const others = controls.filter((_, k) => k !== index)
          expect(shareOff(await draw(others), expected)).toBeGreaterThan(0.01)
          if (start === 0 && end === 1) continue
          const always = controls.map((control, k) => (k === index ? { ...control, start: 0, end: 1 } : control))
          expect(shareOff(await draw(always), expected)).toBeGreaterThan(0.01)
        }
      })
    })
  }
})
