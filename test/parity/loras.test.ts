/** LoRA of every naming, merged while the weights are read, against the same merged by their definition in diffusers. */
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { describeParity, Opened, reference, relativeError, Tensors } from './support.ts'

const { folder, files, model } = await reference('loras')

const TOLERANCE = 1e-4

/** What SDXL's U-Net takes besides. */
const ADDED = ['pooled', 'time_ids']

function inputs(tensors: Tensors) {
  return [
    tensors.as('unet.latents', 'latents'),
    tensors.as('unet.timesteps', 'timesteps'),
    tensors.as('unet.states_k', 'states_k'),
    tensors.as('unet.states_k', 'states_v'),
    ...tensors.under('unet.').filter(({ name }) => ADDED.includes(name)),
  ]
}

describeParity('merged LoRA compute what diffusers does with the merged weights', () => {
  test('all cases are there', () => {
    expect(files.map((file) => basename(file, '.safetensors'))).toEqual(
      ['convolutions', 'kohya', 'ldm', 'older', 'peft', 'two', 'xl'].sort(),
    )
  })

  for (const file of files) {
    describe(basename(file, '.safetensors'), () => {
      let tensors: Tensors
      let opened: Opened
      beforeAll(async () => {
        tensors = await Tensors.read(file)
        const given = JSON.parse(tensors.metadata.loras!) as { file: string; scale: number }[]
        const loras = given.map(({ file, scale }) => ({ file: join(folder, 'files', file), scale }))
        opened = await Opened.open(model(tensors.metadata.model!), 'float32', { loras })
      })
      afterAll(() => opened?.close())

      test('text states, of XL’s second encoder others than without', async () => {
        for (const textEncoder of opened.model.spec.textEncoders.keys()) {
          const encoder = textEncoder === 0 ? 'text' : `text_${textEncoder + 1}`
          const got = await opened.evaluate({
            op: 'text_states',
            inputs: [tensors.as(`${encoder}.ids`, 'ids')],
            textEncoder,
          })
          for (const { name, data } of tensors.under(`${encoder}.`)) {
            if (name === 'ids') continue
            expect(relativeError(got(name), data), name).toBeLessThanOrEqual(TOLERANCE)
            const before = tensors.get(`before.${encoder}.${name}`).data
            if (textEncoder > 0) expect(relativeError(before, data), name).toBeGreaterThan(100 * TOLERANCE)
          }
        }
      })

      test('U-Net, which is another than without', async () => {
        const got = await opened.evaluate({ op: 'unet', inputs: inputs(tensors) })
        const expected = tensors.get('unet.output').data
        expect(relativeError(got('output'), expected)).toBeLessThanOrEqual(TOLERANCE)
        expect(relativeError(tensors.get('before.unet.output').data, expected)).toBeGreaterThan(100 * TOLERANCE)
      })

      test('the VAE is left alone', async () => {
        const got = await opened.evaluate({ op: 'vae_decode', inputs: [tensors.as('vae.latents', 'latents')] })
        expect(relativeError(got('image'), tensors.get('vae.decoded').data)).toBeLessThanOrEqual(TOLERANCE)
      })
    })
  }
})
