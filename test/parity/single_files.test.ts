/** Checkpoints of a single file against diffusers' computation with the folders that they were made of. */
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { describeParity, Opened, reference, relativeError, Tensors } from './support.ts'

const { folder } = await reference('single_files')

const TOLERANCE = 1e-4

const CASES = [
  { file: 'one.safetensors', spec: { linearProjection: false, upcastAttention: false, sampleSize: 64 } },
  { file: 'one.ckpt', spec: { linearProjection: false } },
  { file: 'two.safetensors', spec: { linearProjection: true, upcastAttention: true, sampleSize: 96 } },
  {
    file: 'xl.safetensors',
    spec: { linearProjection: true, upcastAttention: false, sampleSize: 128, pooledWidth: 96 },
  },
  { file: 'mini.safetensors', config: 'mini', spec: { normGroups: 8, sampleSize: 16 } },
]

describeParity('single files compute what their folders do in diffusers', () => {
  for (const { file, config, spec } of CASES) {
    describe(file, () => {
      const [name = ''] = file.split('.')
      let tensors: Tensors
      let opened: Opened
      beforeAll(async () => {
        tensors = await Tensors.read(join(folder, `${name}.safetensors`))
        const configs = config ?? join(folder, 'configs', name)
        opened = await Opened.open(join(folder, 'files', file), 'float32', { config: configs })
      })
      afterAll(() => opened?.close())

      test('the spec', () => {
        expect(opened.model.spec.unet).toMatchObject(spec)
      })

      test('text states', async () => {
        const encoders = opened.model.spec.textEncoders.map((_, index) => (index === 0 ? 'text' : `text_${index + 1}`))
        for (const [textEncoder, encoder] of encoders.entries()) {
          const inputs = [tensors.as(`${encoder}.ids`, 'ids')]
          const got = await opened.evaluate({ op: 'text_states', inputs, textEncoder })
          for (const { name, data } of tensors.under(`${encoder}.`).filter(({ name }) => name !== 'ids')) {
            expect(relativeError(got(name), data), name).toBeLessThanOrEqual(TOLERANCE)
          }
        }
      })

      test('U-Net', async () => {
        const got = await opened.evaluate({
          op: 'unet',
          inputs: [
            tensors.as('unet.latents', 'latents'),
            tensors.as('unet.timesteps', 'timesteps'),
            tensors.as('unet.states_k', 'states_k'),
            tensors.as('unet.states_k', 'states_v'),
            ...tensors.under('unet.').filter(({ name }) => name === 'pooled' || name === 'time_ids'),
          ],
        })
        expect(relativeError(got('output'), tensors.get('unet.output').data)).toBeLessThanOrEqual(TOLERANCE)
      })

      test('VAE both ways', async () => {
        const encoded = await opened.evaluate({ op: 'vae_encode', inputs: [tensors.as('vae.image', 'image')] })
        expect(relativeError(encoded('mean'), tensors.get('vae.mean').data)).toBeLessThanOrEqual(TOLERANCE)
        const decoded = await opened.evaluate({ op: 'vae_decode', inputs: [tensors.as('vae.latents', 'latents')] })
        expect(relativeError(decoded('image'), tensors.get('vae.decoded').data)).toBeLessThanOrEqual(TOLERANCE)
      })
    })
  }
})
