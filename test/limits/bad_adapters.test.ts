/** LoRA and single files that are not as they should be, on the real engine. */
import { join } from 'node:path'
import { beforeAll, expect, test } from 'vitest'
import { floats, hostile, LAYER, loraParts, miniParts, type Part, type Parts, pack } from './adapters.ts'
import { file, MINI, opening, PHOTO, safetensors, TEXT, UNET, VAE } from './kit.ts'
import { at, describeRows, drawing, folder, personalizer, type Row, useEngine } from './table.ts'

useEngine()

let mini: Parts
beforeAll(async () => {
  mini = await miniParts()
})

type Change = (parts: Parts) => void

const lora = (change: Change, name = 'a.safetensors') => {
  const parts = loraParts()
  change(parts)
  return opening({ loras: [file(name, pack(parts))] })
}
const raw = (content: Uint8Array | string, name = 'a.safetensors') => opening({ loras: [file(name, content)] })
const single = (change: Change, options: object = { config: 'mini' }) => {
  const parts = { ...mini }
  change(parts)
  return opening({ model: file('a.safetensors', pack(parts)), ...options })
}
const rename = (parts: Parts, from: RegExp, to: string): void => {
  for (const [name, part] of Object.entries(parts)) {
    if (!from.test(name)) continue
    delete parts[name]
    parts[name.replace(from, to)] = part
  }
}
const DOWN = `${LAYER}.lora_down.weight`
const UP = `${LAYER}.lora_up.weight`
const UNET_IN = 'model.diffusion_model.input_blocks.0.0.weight'

const LORAS: Row[] = [
  ['no such file', 'SWAP_FILE_NOT_FOUND', () => opening({ loras: [at('none.safetensors')] })],
  ['a folder', 'SWAP_FILE_IS_DIRECTORY', () => opening({ loras: [folder] })],
  ['a picture', 'SWAP_TENSOR_HEADER', () => opening({ loras: [PHOTO] })],
  ['an empty file', 'SWAP_TENSOR_CUT_SHORT', () => raw('')],
  ['half a file', 'SWAP_TENSOR_CUT_SHORT', () => raw(pack(loraParts()).subarray(0, -100))],
  ['half a header', 'SWAP_TENSOR_CUT_SHORT', () => raw(pack(loraParts()).subarray(0, 200))],
  ['a header of 2^60 bytes', 'SWAP_TENSOR_HEADER', () => raw(safetensors({}, new Uint8Array(), 2n ** 60n))],
  // What it would write would lie in the row's folder, which must be empty afterwards.
  ['a pickle that runs a program', 'SWAP_FILE_PICKLE', () => raw(hostile(at('ran')), 'a.pt')],
  ['no tensors', 'SWAP_LORA_FILE', () => raw(pack({}))],
  ['a model in its place', 'SWAP_LORA_FILE', () => opening({ loras: [join(MINI, UNET)] })],
  ['no up factor', 'SWAP_LORA_INCOMPLETE', () => lora((parts) => delete parts[UP])],
  ['no down factor', 'SWAP_LORA_INCOMPLETE', () => lora((parts) => delete parts[DOWN])],
  ['an alpha alone', 'SWAP_LORA_INCOMPLETE', () => lora((parts) => delete parts[UP] && delete parts[DOWN])],
  [
    'a layer that is not there',
    'SWAP_LORA_KEYS',
    () => lora((parts) => rename(parts, /down_blocks_0/, 'down_blocks_9')),
  ],
  ['a second text encoder', 'SWAP_LORA_KEYS', () => lora((parts) => rename(parts, /^lora_te_/, 'lora_te2_'))],
  ['a bias', 'SWAP_LORA_KIND', () => lora((parts) => (parts[`${LAYER}.lora_up.bias`] = floats([64])))],
  [
    'a tensor of nothing known',
    'SWAP_LORA_KEYS',
    () => lora((parts) => (parts['bundle_emb.alice'] = floats([1, 192]))),
  ],
  ['the VAE', 'SWAP_LORA_KEYS', () => lora((parts) => rename(parts, /^lora_unet_.*to_k/, 'lora_vae_decoder_conv_in'))],
  ['DoRA', 'SWAP_LORA_KIND', () => lora((parts) => (parts[`${LAYER}.dora_scale`] = floats([64, 1])))],
  ['LoHa', 'SWAP_LORA_KIND', () => raw(pack({ [`${LAYER}.hada_w1_a`]: floats([64, 2]) }))],
  ['LoKr', 'SWAP_LORA_KIND', () => raw(pack({ [`${LAYER}.lokr_w1`]: floats([8, 8]) }))],
  [
    'another base: its text states are 768 wide',
    'SWAP_LORA_BASE',
    () => lora((parts) => (parts[DOWN] = floats([2, 768]))),
  ],
  ['another width', 'SWAP_LORA_BASE', () => lora((parts) => (parts[UP] = floats([320, 2])))],
  ['ranks that differ', 'SWAP_LORA_BASE', () => lora((parts) => (parts[UP] = floats([64, 3])))],
  [
    'a rank of 0',
    'SWAP_LORA_BASE',
    () => lora((parts) => void Object.assign(parts, { [UP]: floats([64, 0]), [DOWN]: floats([0, 192]) })),
  ],
  [
    'a middle of a linear layer',
    'SWAP_LORA_BASE',
    () => lora((parts) => (parts[`${LAYER}.lora_mid.weight`] = floats([2, 2, 3, 3]))),
  ],
  ['an alpha of many numbers', 'SWAP_LORA_ALPHA', () => lora((parts) => (parts[`${LAYER}.alpha`] = floats([4])))],
  [
    'an alpha that is NaN',
    'SWAP_LORA_ALPHA',
    () => lora((parts) => (parts[`${LAYER}.alpha`] = floats([], Number.NaN))),
  ],
  [
    'factors of whole numbers',
    'SWAP_TENSOR_DTYPE',
    () => lora((parts) => (parts[UP] = { ...parts[UP]!, dtype: 'I32' })),
  ],
  [
    'one layer under two names',
    'SWAP_LORA_TWICE',
    () =>
      lora((parts) => {
        const other = LAYER.replace('down_blocks_0_attentions_0', 'input_blocks_1_1')
        parts[`${other}.lora_down.weight`] = parts[DOWN]!
        parts[`${other}.lora_up.weight`] = parts[UP]!
      }),
  ],
  ['a scale out of range', 'SWAP_OPTION_INVALID', () => opening({ loras: [{ file: 'a', scale: 99 }] })],
  ['a misspelt key', 'SWAP_OPTION_UNKNOWN', () => opening({ loras: [{ file: 'a', weight: 1 }] })],
  ['no list', 'SWAP_OPTION_INVALID', () => opening({ loras: 'a.safetensors' })],
  ['setLoras() of no list', 'SWAP_OPTION_INVALID', () => personalizer.setLoras('a' as never)],
  ['setLoras() of no file', 'SWAP_FILE_NOT_FOUND', () => personalizer.setLoras([at('none.safetensors')])],
  [
    'weights that become infinite',
    'SWAP_NUMERIC_NAN',
    () =>
      opening(
        {
          loras: [
            {
              file: file(
                'a.safetensors',
                pack({ ...loraParts(), [UP]: floats([64, 2], 3e38), [DOWN]: floats([2, 192], 3e38) }),
              ),
              scale: 10,
            },
          ],
        },
        (p) => p.generate(drawing()),
      ),
  ],
]

const SINGLE: Row[] = [
  ['no such file', 'SWAP_MODEL_NOT_FOUND', () => opening({ model: at('a.safetensors') })],
  ['an empty file', 'SWAP_TENSOR_CUT_SHORT', () => opening({ model: file('a.safetensors', '') })],
  ['an empty .ckpt', 'SWAP_FILE_PICKLE_DAMAGED', () => opening({ model: file('a.ckpt', '') })],
  ['a .ckpt that is text', 'SWAP_FILE_PICKLE_DAMAGED', () => opening({ model: file('a.ckpt', 'import os') })],
  ['a .ckpt that runs a program', 'SWAP_FILE_PICKLE', () => opening({ model: file('a.ckpt', hostile(at('ran'))) })],
  ['half a file', 'SWAP_TENSOR_CUT_SHORT', () => opening({ model: file('a.safetensors', pack(mini).subarray(0, -1)) })],
  ['no tensors', 'SWAP_MODEL_UNSUPPORTED', () => opening({ model: file('a.safetensors', pack({})) })],
  ['a LoRA', 'SWAP_MODEL_UNSUPPORTED', () => opening({ model: file('a.safetensors', pack(loraParts())) })],
  ['a U-Net alone', 'SWAP_MODEL_UNSUPPORTED', () => opening({ model: join(MINI, UNET) })],
  ['a VAE alone', 'SWAP_MODEL_UNSUPPORTED', () => opening({ model: join(MINI, VAE) })],
  ['a text encoder alone', 'SWAP_MODEL_UNSUPPORTED', () => opening({ model: join(MINI, TEXT) })],
  [
    'a ControlNet',
    'SWAP_MODEL_UNSUPPORTED',
    () => opening({ model: file('a.safetensors', pack({ 'control_model.input_hint_block.0.weight': floats([1]) })) }),
  ],
  [
    'a transformer',
    'SWAP_MODEL_UNSUPPORTED',
    () => opening({ model: file('a.safetensors', pack({ 'double_blocks.0.img_attn.proj.weight': floats([1]) })) }),
  ],
  [
    'a refiner',
    'SWAP_MODEL_UNSUPPORTED',
    () => single((parts) => rename(parts, /^cond_stage_model\.transformer/, 'conditioner.embedders.0.model')),
  ],
  [
    'no text encoder',
    'SWAP_MODEL_TENSOR_MISSING',
    () => single((parts) => rename(parts, /^cond_stage_model\./, 'other.')),
  ],
  ['no VAE', 'SWAP_MODEL_TENSOR_MISSING', () => single((parts) => rename(parts, /^first_stage_model\./, 'other.'), {})],
  [
    'a tensor too few',
    'SWAP_MODEL_TENSOR_MISSING',
    () => single((parts) => delete parts['model.diffusion_model.out.2.bias']),
  ],
  [
    'a tensor of another shape',
    'SWAP_MODEL_TENSOR_SHAPE',
    () => single((parts) => (parts['model.diffusion_model.out.0.weight'] = floats([3]))),
  ],
  [
    'a width of nothing',
    'SWAP_MODEL_TENSOR_SHAPE',
    () => single((parts) => (parts[UNET_IN] = floats([0, 4, 3, 3])), {}),
  ],
  [
    'weights of eight bits',
    'SWAP_TENSOR_DTYPE',
    () =>
      single((parts) => (parts[UNET_IN] = { ...parts[UNET_IN]!, dtype: 'F8_E4M3', bytes: new Uint8Array(64 * 36) })),
  ],
  ['a vocabulary of its own, and no configs', 'SWAP_TOKENIZER_VOCAB', () => single(() => {}, {})],
  [
    'heads that cannot be told, and no configs',
    'SWAP_MODEL_UNSUPPORTED',
    () =>
      single((parts) => {
        parts['model.diffusion_model.input_blocks.1.0.out_layers.3.weight'] = floats([70, 64, 3, 3])
      }, {}),
  ],
  ['configs that are not there', 'SWAP_MODEL_NOT_FOUND', () => single(() => {}, { config: at('none') })],
  ['configs for a folder', 'SWAP_OPTION_INVALID', () => opening({ model: 'mini', config: 'mini' })],
  ['a prediction type unheard of', 'SWAP_OPTION_INVALID', () => opening({ predictionType: 'x0' })],
]

describeRows('LoRA', LORAS)
describeRows('single files', SINGLE)

test('keys that match nothing are listed, the rest counted', async () => {
  const parts: Parts = { ...loraParts() }
  for (let index = 0; index < 15; index++) parts[`lora_unet_nowhere_${index}.alpha`] = floats([]) as Part
  const error = (await raw(pack(parts)).catch((raised: unknown) => raised)) as Error
  expect(error.message).toContain('15 of 20 tensors match nothing')
  expect(error.message).toContain('lora_unet_nowhere_0.alpha, lora_unet_nowhere_1.alpha')
  expect(error.message).toContain('and 3 more')
})

test('setLoras() changes pictures and takes it back', async () => {
  const path = file('style.safetensors', pack(loraParts()))
  const draw = async (): Promise<Uint8Array> => (await personalizer.generate(drawing()))[0]!.data
  const before = await draw()
  expect(await personalizer.setLoras([{ file: path, scale: 8 }])).toEqual([{ file: path, scale: 8, weights: 2 }])
  expect(personalizer.info.loras).toHaveLength(1)
  const [styled] = await personalizer.generate(drawing())
  expect(styled!.data).not.toEqual(before)
  expect(styled!.parameters).toMatchObject({ loras: ['style.safetensors:8'] })
  await personalizer.setLoras([])
  expect(await draw()).toEqual(before)
})
