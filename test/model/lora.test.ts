/** The names of LoRA files, on every weight of the architectures that people have. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { afterAll, describe, expect, test } from 'vitest'
import { Checkpoint, textEncoderOf, textPlaces, unetOf, vaeOf } from '../../lib/model/checkpoint.ts'
import { expectedTensors } from '../../lib/model/expected.ts'
import { readModel } from '../../lib/model/index.ts'
import { readLoras } from '../../lib/model/lora.ts'
import { LoraTargets, otherKind, splitName } from '../../lib/model/lora_names.ts'
import type { ModelSpec, TensorEntry } from '../../lib/native.ts'
import { floats, loraParts, pack } from '../limits/adapters.ts'

/** LDM's name -> shape and the names of what it becomes. */
const goldens = JSON.parse(
  gunzipSync(readFileSync(new URL('goldens/single_files.json.gz', import.meta.url))).toString(),
) as Record<string, Record<string, [shape: number[], becomes: string[]]>>

function specOf(name: string): ModelSpec {
  const tensors = Object.entries(goldens[name]!).map(([key, [shape]]) => ({
    name: key,
    dtype: 'F16',
    shape,
    begin: 0,
    end: 0,
  }))
  const file = new Checkpoint(name, tensors)
  const places = textPlaces(file)
  const textEncoders = places.map((place) => textEncoderOf(file, place, places.length === 2))
  return { textEncoders, unet: unetOf(file, textEncoders), vae: vaeOf(file) } as ModelSpec
}

describe.each(['v1-5', 'v2-1', 'sd_xl_base'])('%s', (name) => {
  const spec = specOf(name)
  const shapes = expectedTensors(spec)
  const targets = new LoraTargets(spec, shapes)
  const weights = [...shapes].filter(([key, shape]) => shape.length >= 2 && key.endsWith('.weight')).map(([key]) => key)
  const unet = weights.filter((key) => key.startsWith('unet.'))
  const text = weights.filter((key) => key.startsWith('text_encoder.'))
  const module = (key: string): string => key.replace(/\.weight$/, '')

  test("kohya's names with diffusers' blocks, and with Stable Diffusion's own", () => {
    for (const key of unet) {
      const flat = `lora_unet_${module(key).slice('unet.'.length).replaceAll('.', '_')}`
      expect([flat, targets.find(flat)]).toEqual([flat, key])
    }
    let older = 0
    for (const [ldm, [shape, becomes]] of Object.entries(goldens[name]!)) {
      if (!ldm.startsWith('model.diffusion_model.') || shape.length < 2) continue
      const flat = `lora_unet_${module(ldm).slice('model.diffusion_model.'.length).replaceAll('.', '_')}`
      expect([flat, targets.find(flat)]).toEqual([flat, becomes[0]])
      older++
    }
    expect(older).toBe(unet.length)
  })

  test("kohya's names of text encoders", () => {
    for (const key of text) {
      const [, index, rest] = /^text_encoder\.(\d)\.(.+)$/.exec(module(key))!
      const prefixes = index === '0' ? ['lora_te_', 'lora_te1_'] : ['lora_te2_']
      for (const prefix of prefixes) {
        expect(targets.find(`${prefix}text_model_${rest!.replaceAll('.', '_')}`)).toBe(key)
      }
    }
  })

  test("PEFT's and diffusers' names", () => {
    for (const key of [...unet, ...text]) {
      const theirs = module(key)
        .replace(/^text_encoder\.0\./, 'text_encoder.text_model.')
        .replace(/^text_encoder\.1\./, 'text_encoder_2.text_model.')
      expect([theirs, targets.find(theirs)]).toEqual([theirs, key])
    }
  })

  test('what is not there is not found', () => {
    for (const nowhere of ['vae.decoder.conv_in', 'lora_unet_', 'unet.', 'text_encoder_3.x', 'unet.__proto__']) {
      expect(targets.find(nowhere)).toBeUndefined()
    }
  })
})

test('a weight that the engine does not read needs no factors', async () => {
  const model = await readModel('mini')
  const file = join(mkdtempSync(join(tmpdir(), 'swap-lora-')), 'a.safetensors')
  writeFileSync(file, pack(loraParts()))
  const all = await readLoras(model, [{ file, scale: 1 }])
  const unread = 'text_encoder.0.encoder.layers.0.mlp.fc1.weight'
  const some = { ...model, tensors: model.tensors.filter(({ name }) => name !== unread) }
  const fewer = await readLoras(some, [{ file, scale: 1 }])
  expect(all.deltas.filter(({ target }) => target !== unread)).toEqual(fewer.deltas)
  expect(all.deltas.length - fewer.deltas.length).toBe(1)
  rmSync(dirname(file), { recursive: true })
})

describe('factors of a text encoder alone, as wide in 1.x as the first of XL', () => {
  const folder = mkdtempSync(join(tmpdir(), 'swap-lora-'))
  afterAll(() => rmSync(folder, { recursive: true }))

  async function targets(name: string, prefix: string): Promise<string[]> {
    const module = `${prefix}text_model_encoder_layers_0_mlp_fc1`
    const file = join(folder, `${prefix}.safetensors`)
    writeFileSync(
      file,
      pack({ [`${module}.lora_down.weight`]: floats([2, 768]), [`${module}.lora_up.weight`]: floats([3072, 2]) }),
    )
    const spec = specOf(name)
    const tensors = [...expectedTensors(spec).keys()].map((name) => ({ name }) as TensorEntry)
    return (await readLoras({ spec, tensors }, [{ file, scale: 1 }])).deltas.map(({ target }) => target)
  }

  test.each([
    ['v1-5', 'lora_te_'],
    // So do some of the files for 1.x name their only one.
    ['v1-5', 'lora_te1_'],
    ['sd_xl_base', 'lora_te1_'],
  ])('%s takes %s', async (name, prefix) => {
    expect(await targets(name, prefix)).toEqual(['text_encoder.0.encoder.layers.0.mlp.fc1.weight'])
  })

  test.each([
    ['sd_xl_base', 'lora_te_', 'SWAP_LORA_BASE', 'of a model with one text encoder; this one has 2'],
    ['v1-5', 'lora_te2_', 'SWAP_LORA_KEYS', 'match nothing in the model'],
  ])('%s refuses %s', async (name, prefix, code, message) => {
    await expect(targets(name, prefix)).rejects.toMatchObject({ code, message: expect.stringContaining(message) })
  })
})

test.each([
  ['lora_unet_conv_in.lora_down.weight', 'lora_unet_conv_in', 'down'],
  ['lora_unet_conv_in.lora_mid.weight', 'lora_unet_conv_in', 'middle'],
  ['lora_te1_a.alpha', 'lora_te1_a', 'alpha'],
  ['unet.a.to_q.lora_A.weight', 'unet.a.to_q', 'down'],
  ['base_model.model.a.to_q.lora_B.default.weight', 'base_model.model.a.to_q', 'up'],
  ['unet.a.processor.to_q_lora.up.weight', 'unet.a.processor.to_q_lora', 'up'],
  ['unet.a.processor.to_q_lora.alpha', 'unet.a.processor.to_q_lora', 'alpha'],
  ['text_encoder.a.q_proj.lora_linear_layer.down.weight', 'text_encoder.a.q_proj', 'down'],
])('%s', (name, module, role) => {
  expect(splitName(name)).toEqual({ module, role })
  expect(otherKind(name)).toBeUndefined()
})

test.each([
  ['a.dora_scale', 'DoRA'],
  ['unet.a.lora_magnitude_vector', 'DoRA'],
  ['a.hada_w2_b', 'LoHa'],
  ['a.lokr_t2', 'LoKr'],
  ['a.oft_blocks', 'OFT'],
  ['a.on_input', 'IA3'],
  ['a.diff', 'a difference of whole weights'],
])('%s is %s', (name, kind) => {
  expect(otherKind(name)).toBe(kind)
})
