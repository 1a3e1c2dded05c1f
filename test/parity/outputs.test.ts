/** Text states, U-Net and VAE against diffusers, on every way that a folder of models.py differs. */
import { basename } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
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

function inputsOf(tensors: Tensors, inputs: Record<string, string | readonly string[]>) {
  return Object.entries(inputs).flatMap(([name, given]) =>
    (typeof given === 'string' ? [given] : given).map((as) => tensors.as(name, as)),
  )
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
        const got = await opened.evaluate({
          op: 'text_states',
          inputs: [tensors.as('text.ids', 'ids')],
          textEncoder: 0,
        })
        expect(relativeError(got('states'), tensors.get('text.states').data)).toBeLessThanOrEqual(TOLERANCE)
      })

      for (const { name: what, op, inputs, output } of OPS) {
        test(what, async () => {
          const got = await opened.evaluate({ op, inputs: inputsOf(tensors, inputs) })
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
        const states = tensors.get('unet.states_k')
        const one = { shape: [1, ...states.shape.slice(1)], data: states.data.slice(0, states.data.length / 2) }
        const got = await opened.evaluate({
          op: 'unet',
          inputs: [
            tensors.as('uneven.latents', 'latents'),
            tensors.as('uneven.timesteps', 'timesteps'),
            { name: 'states_k', ...one },
            { name: 'states_v', ...one },
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
          const got = await opened.evaluate({ op, inputs: inputsOf(tensors, inputs) })
          const exact = tensors.get(what).data
          const theirs = deviation(tensors.get(`bf16.${what}`).data, exact)
          expect(deviation(got(output), exact)).toBeLessThanOrEqual(2 * theirs)
        })
      }

      test('the text encoder stays in fp32', async () => {
        const got = await opened.evaluate({
          op: 'text_states',
          inputs: [tensors.as('text.ids', 'ids')],
          textEncoder: 0,
        })
        expect(relativeError(got('states'), tensors.get('text.states').data)).toBeLessThanOrEqual(TOLERANCE)
      })
    })
  }
})
