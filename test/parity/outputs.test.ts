/** Text states, pooled states, U-Net and VAE against diffusers, on every way that a folder of models.py differs. */
import { basename } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { NativeTensor } from '../../lib/native.ts'
import { describeParity, deviation, Opened, reference, relativeError, Tensors } from './support.ts'

const { files, model } = await reference('outputs')

/** fp32 sums in another order differ by about 1e-6 here. */
const TOLERANCE = 1e-4

/** The engine's inputs and output for each of the reference's. */
const OPS = [
  { name: 'vae.mean', op: 'vae_encode', inputs: { 'vae.image': 'image' }, output: 'mean' },
  { name: 'vae.std', op: 'vae_encode', inputs: { 'vae.image': 'image' }, output: 'std' },
  { name: 'vae.decoded', op: 'vae_decode', inputs: { 'vae.latents': 'latents' }, output: 'image' },
  {
    name: 'unet.output',
    op: 'unet',
    inputs: { 'unet.latents': 'latents', 'unet.timesteps': 'timesteps', 'unet.states_k': ['states_k', 'states_v'] },
    output: 'output',
  },
] as const

/** What SDXL's U-Net takes besides. */
const ADDED = ['pooled', 'time_ids', 'guidance']

function inputsOf(tensors: Tensors, op: string, inputs: Record<string, string | readonly string[]>) {
  const given = Object.entries(inputs).flatMap(([name, given]) =>
    (typeof given === 'string' ? [given] : given).map((as) => tensors.as(name, as)),
  )
  return op === 'unet' ? [...given, ...added(tensors)] : given
}

function added(tensors: Tensors): NativeTensor[] {
  return tensors.under('unet.').filter(({ name }) => ADDED.includes(name))
}

/** The first row alone. */
function firstRow({ name, shape, data }: NativeTensor): NativeTensor {
  return { name, shape: [1, ...shape.slice(1)], data: data.slice(0, data.length / shape[0]!) }
}

/** The names of the reference's text encoders. */
function textEncoders(tensors: Tensors): string[] {
  return ['text', 'text_2'].filter((name) => tensors.under(`${name}.`).length > 0)
}

/** What every text encoder gives, text states and a pooled state, beside the reference's. */
async function texts(
  opened: Opened,
  tensors: Tensors,
): Promise<{ output: string; got: Float32Array; wanted: Float32Array }[]> {
  const all = await Promise.all(
    textEncoders(tensors).map(async (name, textEncoder) => {
      const got = await opened.evaluate({ op: 'text_states', inputs: [tensors.as(`${name}.ids`, 'ids')], textEncoder })
      const outputs = tensors.under(`${name}.`).filter((tensor) => tensor.name !== 'ids')
      return outputs.map((wanted) => ({
        output: `${name}.${wanted.name}`,
        got: got(wanted.name),
        wanted: wanted.data,
      }))
    }),
  )
  return all.flat()
}

describeParity('outputs equal those of diffusers', () => {
  for (const file of files) {
    const name = basename(file, '.safetensors')
    describe(name, () => {
      let tensors: Tensors
      let opened: Opened
      beforeAll(async () => {
        tensors = await Tensors.read(file)
        opened = await Opened.open(model(name))
      })
      afterAll(() => opened?.close())

      test('text states', async () => {
        for (const { output, got, wanted } of await texts(opened, tensors)) {
          expect(relativeError(got, wanted), output).toBeLessThanOrEqual(TOLERANCE)
        }
      })

      for (const { name: what, op, inputs, output } of OPS) {
        test(what, async () => {
          const got = await opened.evaluate({ op, inputs: inputsOf(tensors, op, inputs) })
          expect(relativeError(got(output), tensors.get(what).data)).toBeLessThanOrEqual(TOLERANCE)
        })
      }

      test('U-Net with K and V from different states', async () => {
        const got = await opened.evaluate({ op: 'unet', inputs: tensors.under('unet.') })
        const expected = tensors.get('split.output').data
        expect(relativeError(got('output'), expected)).toBeLessThanOrEqual(TOLERANCE)
        // Taken for one another they would give something else.
        expect(relativeError(tensors.get('unet.output').data, expected)).toBeGreaterThan(100 * TOLERANCE)
      })

      test('U-Net on latents that do not halve evenly', async () => {
        const states = firstRow(tensors.get('unet.states_k'))
        const got = await opened.evaluate({
          op: 'unet',
          inputs: [
            tensors.as('uneven.latents', 'latents'),
            tensors.as('uneven.timesteps', 'timesteps'),
            { ...states, name: 'states_k' },
            { ...states, name: 'states_v' },
            ...added(tensors).map(firstRow),
          ],
        })
        expect(relativeError(got('output'), tensors.get('uneven.output').data)).toBeLessThanOrEqual(TOLERANCE)
      })
    })
  }
})

describeParity('bfloat16 is at most twice as far from fp32 as diffusers in bfloat16', () => {
  for (const file of files) {
    const name = basename(file, '.safetensors')
    describe(name, () => {
      let tensors: Tensors
      let opened: Opened
      beforeAll(async () => {
        tensors = await Tensors.read(file)
        opened = await Opened.open(model(name), 'bfloat16')
      })
      afterAll(() => opened?.close())

      for (const { name: what, op, inputs, output } of OPS) {
        test(what, async () => {
          const got = await opened.evaluate({ op, inputs: inputsOf(tensors, op, inputs) })
          const exact = tensors.get(what).data
          const theirs = deviation(tensors.get(`bf16.${what}`).data, exact)
          expect(deviation(got(output), exact)).toBeLessThanOrEqual(2 * theirs)
        })
      }

      test('text states', async () => {
        for (const { output, got, wanted } of await texts(opened, tensors)) {
          const theirs = deviation(tensors.get(`bf16.${output}`).data, wanted)
          expect(deviation(got, wanted), output).toBeLessThanOrEqual(2 * theirs)
        }
      })
    })
  }
})
