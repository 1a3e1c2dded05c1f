import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import type { SwapError } from '../../lib/errors.ts'
import { expectedTensors } from '../../lib/model/expected.ts'
import { textEncoderSpec } from '../../lib/model/text_encoder.ts'
import { unetSpec } from '../../lib/model/unet.ts'
import { vaeSpec } from '../../lib/model/vae.ts'
import { config, type Keys, specOf, TEXT, UNET, VAE } from './folder_of.ts'

type Part = { config: Keys; shapes: Record<string, number[]> }
const golden = JSON.parse(
  gunzipSync(readFileSync(new URL('goldens/state_dicts.json.gz', import.meta.url))).toString(),
) as { cases: Record<string, Record<'unet' | 'vae' | 'text_encoder', Part>> }

describe.each(Object.entries(golden.cases))('%s', (_, { unet, vae, text_encoder: text }) => {
  test('asks for exactly the tensors of diffusers', () => {
    const expected = expectedTensors(specOf(unet.config, vae.config, text.config))
    for (const [prefix, { shapes }] of [
      ['unet.', unet],
      ['vae.', vae],
      ['text_encoder.0.', text],
    ] as const) {
      const ours = [...expected].filter(([name]) => name.startsWith(prefix))
      const named = Object.fromEntries(ours.map(([name, shape]) => [name.slice(prefix.length), shape]))
      expect(named).toEqual(shapes)
    }
  })
})

test('2.1 resolves to what its architecture is', () => {
  const { unet, vae, text_encoder: text } = golden.cases.sd21!
  const spec = specOf(unet.config, vae.config, text.config)
  expect(spec.unet.levels.map(({ heads }) => heads)).toEqual([5, 10, 20, 20])
  expect(spec.unet.levels.map(({ downAttention }) => downAttention)).toEqual([true, true, true, false])
  expect(spec.unet.levels.map(({ upAttention }) => upAttention)).toEqual([true, true, true, false])
  expect(spec.unet).toMatchObject({ linearProjection: true, upcastAttention: true, midHeads: 20, sampleSize: 96 })
  expect(spec.textEncoders[0]).toMatchObject({ activation: 'gelu', layers: 23, skipLayers: 0, finalNorm: true })
  expect(spec.vae).toMatchObject({ scalingFactor: 0.18215, shiftFactor: 0, quantConv: true, midAttention: true })
})

test("every level has its own numbers on both ways, though diffusers' up blocks come in reverse", () => {
  const { levels, midHeads, midTransformerLayers } = unetSpec(config(golden.cases.uneven!.unet.config))
  expect(levels).toEqual([
    { channels: 24, layers: 1, heads: 3, transformerLayers: 1, downAttention: false, upAttention: true },
    { channels: 40, layers: 3, heads: 5, transformerLayers: 2, downAttention: true, upAttention: false },
    { channels: 72, layers: 2, heads: 9, transformerLayers: 3, downAttention: true, upAttention: true },
  ])
  expect([midHeads, midTransformerLayers]).toEqual([9, 3])
})

test('the number of heads is attention_head_dim, unless num_attention_heads is there', () => {
  expect(unetSpec(config({ ...UNET, attention_head_dim: 4 })).levels[0]!.heads).toBe(4)
  expect(unetSpec(config({ ...UNET, num_attention_heads: 2, attention_head_dim: 4 })).levels[0]!.heads).toBe(2)
  expect(unetSpec(config({ ...UNET, num_attention_heads: null, attention_head_dim: 4 })).levels[0]!.heads).toBe(4)
})

test('sample_size: a square, a pair, and the first files of 1.x', () => {
  const size = (keys: Keys) => unetSpec(config({ ...UNET, ...keys })).sampleSize
  expect(size({ sample_size: [24, 24] })).toBe(24)
  expect(size({ sample_size: undefined })).toBe(64)
  expect(size({ sample_size: 32, _diffusers_version: '0.6.0' })).toBe(64)
  expect(size({ sample_size: 32, _diffusers_version: '0.10.2' })).toBe(32)
  expect(size({ sample_size: 96, _diffusers_version: '0.8.0' })).toBe(96)
})

const ADDED = {
  addition_embed_type: 'text_time',
  addition_time_embed_dim: 8,
  projection_class_embeddings_input_dim: 60,
}

test('SDXL: a pooled state of the width that six sizes leave; nothing of it elsewhere', () => {
  expect(unetSpec(config({ ...UNET, ...ADDED }))).toMatchObject({ pooledWidth: 12, timeIdWidth: 8 })
  expect(unetSpec(config({ ...UNET, time_cond_proj_dim: 20 }))).toMatchObject({ guidanceWidth: 20 })
  for (const key of ['pooledWidth', 'timeIdWidth', 'guidanceWidth'])
    expect(unetSpec(config(UNET))).not.toHaveProperty(key)
})

test.each([
  ['projection_class_embeddings_input_dim', 48],
  ['projection_class_embeddings_input_dim', null],
  ['addition_time_embed_dim', null],
  ['addition_time_embed_dim', 2.5],
])('SDXL with %s %j is an error', (key, value) => {
  const error = failure(() => unetSpec(config({ ...UNET, ...ADDED, [key]: value }, 'unet/config.json')))
  expect(error.code).toBe('SWAP_MODEL_CONFIG')
  expect(error.message).toContain(key)
})

test('SDXL: the state before the last, without the norm; the second encoder gives the pooled one', () => {
  const clip = { ...TEXT, architectures: ['CLIPTextModelWithProjection'], projection_dim: 10 }
  expect(textEncoderSpec(config(clip))).toMatchObject({ skipLayers: 0, finalNorm: true, projectionDim: 10 })
  expect(textEncoderSpec(config(clip), 'first')).toMatchObject({ skipLayers: 1, finalNorm: false, projectionDim: 0 })
  expect(textEncoderSpec(config(TEXT), 'second')).toMatchObject({ skipLayers: 1, finalNorm: false, projectionDim: 512 })
})

test('a whole CLIP keeps its text part in text_config; the legacy end token means the highest id', () => {
  const spec = textEncoderSpec(config({ model_type: 'clip', text_config: { ...TEXT, eos_token_id: 2 } }))
  expect(spec).toMatchObject({ width: 12, layers: 2, eos: 7, activation: 'quick_gelu', normEps: 1e-5, positions: 77 })
  expect(textEncoderSpec(config({ ...TEXT, eos_token_id: 5 })).eos).toBe(5)
})

function failure(run: () => unknown): SwapError {
  try {
    run()
  } catch (error) {
    return error as SwapError
  }
  throw new Error('nothing was thrown')
}

const refused: [string, unknown][] = [
  ['center_input_sample', true],
  ['mid_block_scale_factor', 2],
  ['mid_block_type', 'UNetMidBlock2DSimpleCrossAttn'],
  ['mid_block_type', null],
  ['down_block_types', ['CrossAttnDownBlock2D', 'AttnDownBlock2D']],
  ['up_block_types', ['ResnetUpsampleBlock2D', 'UpBlock2D']],
  ['only_cross_attention', true],
  ['only_cross_attention', [false, true]],
  ['act_fn', 'gelu'],
  ['norm_num_groups', null],
  ['cross_attention_dim', [12, 24]],
  ['transformer_layers_per_block', [[1, 2], 1]],
  ['reverse_transformer_layers_per_block', [[1, 2], 1]],
  ['encoder_hid_dim', 32],
  ['encoder_hid_dim_type', 'text_proj'],
  ['dual_cross_attention', true],
  ['class_embed_type', 'timestep'],
  ['num_class_embeds', 1000],
  ['class_embeddings_concat', true],
  ['addition_embed_type', 'text_image'],
  ['resnet_time_scale_shift', 'scale_shift'],
  ['time_embedding_type', 'fourier'],
  ['time_embedding_dim', 64],
  ['time_embedding_act_fn', 'silu'],
  ['timestep_post_act', 'silu'],
  ['conv_in_kernel', 5],
  ['conv_out_kernel', 1],
  ['attention_type', 'gated'],
  ['sample_size', [8, 16]],
]

test.each(refused)('a U-Net with %s %j is refused', (key, value) => {
  const error = failure(() => unetSpec(config({ ...UNET, [key]: value }, 'unet/config.json')))
  expect(error.code).toBe('SWAP_MODEL_UNSUPPORTED')
  expect(error.message).toContain('unet/config.json')
  expect(error.message).toContain(key)
})

test('the same keys pass with a value that changes nothing', () => {
  const neutral = {
    center_input_sample: false,
    mid_block_scale_factor: 1.0,
    only_cross_attention: [false, false],
    act_fn: 'swish',
    cross_attention_dim: [12, 12],
    transformer_layers_per_block: [1, 1],
    reverse_transformer_layers_per_block: [1, 1],
    encoder_hid_dim: null,
    dual_cross_attention: false,
    class_embed_type: null,
    time_embedding_dim: 32,
    conv_in_kernel: 3,
    // These have no say in the supported blocks.
    cross_attention_norm: 'layer_norm',
    resnet_skip_time_act: true,
    resnet_out_scale_factor: 2,
    dropout: 0.5,
    projection_class_embeddings_input_dim: 2816,
  }
  expect(unetSpec(config({ ...UNET, ...neutral }))).toEqual(unetSpec(config(UNET)))
})

test.each<[string, unknown]>([
  ['_class_name', 'AutoencoderTiny'],
  ['down_block_types', ['DownEncoderBlock2D', 'AttnDownEncoderBlock2D']],
  ['act_fn', 'relu'],
  ['latents_mean', [0, 0, 0, 0]],
  ['latents_std', [1, 1, 1, 1]],
])('a VAE with %s %j is refused', (key, value) => {
  expect(failure(() => vaeSpec(config({ ...VAE, [key]: value })))).toMatchObject({
    code: 'SWAP_MODEL_UNSUPPORTED',
    message: expect.stringContaining(key),
  })
})

test.each<[string, unknown]>([
  ['model_type', 't5'],
  ['hidden_act', 'relu'],
])('a text encoder with %s %j is refused', (key, value) => {
  expect(failure(() => textEncoderSpec(config({ ...TEXT, [key]: value })))).toMatchObject({
    code: 'SWAP_MODEL_UNSUPPORTED',
    message: expect.stringContaining(key),
  })
})

test.each<[string, () => unknown]>([
  ['block_out_channels', () => unetSpec(config({ ...UNET, block_out_channels: [8, 16, 32] }))],
  ['block_out_channels', () => unetSpec(config({ ...UNET, block_out_channels: '8' }))],
  ['layers_per_block', () => unetSpec(config({ ...UNET, layers_per_block: 1e9 }))],
  ['layers_per_block', () => unetSpec(config({ ...UNET, layers_per_block: [1, 2, 3] }))],
  ['attention_head_dim', () => unetSpec(config({ ...UNET, attention_head_dim: 3 }))],
  ['norm_num_groups', () => unetSpec(config({ ...UNET, norm_num_groups: 5 }))],
  ['up_block_types', () => unetSpec(config({ ...UNET, up_block_types: ['UpBlock2D'] }))],
  ['use_linear_projection', () => unetSpec(config({ ...UNET, use_linear_projection: 1 }))],
  [
    'block_out_channels',
    () => vaeSpec(config({ ...VAE, block_out_channels: [], down_block_types: [], up_block_types: [] })),
  ],
  ['latent_channels', () => vaeSpec(config({ ...VAE, latent_channels: -4 }))],
  ['scaling_factor', () => vaeSpec(config({ ...VAE, scaling_factor: '0.18' }))],
  ['num_hidden_layers', () => textEncoderSpec(config({ ...TEXT, num_hidden_layers: 1e8 }))],
  ['num_attention_heads', () => textEncoderSpec(config({ ...TEXT, num_attention_heads: 5 }))],
  ['vocab_size', () => textEncoderSpec(config({ ...TEXT, vocab_size: 2 ** 53 }))],
])('a %s of a wrong kind is an error with its value', (key, run) => {
  expect(failure(run)).toMatchObject({ code: 'SWAP_MODEL_CONFIG', message: expect.stringContaining(key) })
})
