/** Folders of SDXL: two text encoders, a pooled state, and all that can be wrong with them. */
import { describe, expect, test } from 'vitest'
import { expectedTensors } from '../../lib/model/expected.ts'
import { readModel } from '../../lib/model/index.ts'
import { noiseSpec } from '../../lib/model/scheduler.ts'
import { textEncoderSpec } from '../../lib/model/text_encoder.ts'
import { unetSpec } from '../../lib/model/unet.ts'
import { vaeSpec } from '../../lib/model/vae.ts'
import type { ModelSpec } from '../../lib/native.ts'
import { encodePrompt } from '../../lib/prompt/index.ts'
import { timeIds } from '../../lib/time_ids.ts'
import { config, type Keys, modelFiles, rawSafetensors, TEXT, UNET, VAE, writeFolder } from './folder_of.ts'

const SECOND: Keys = {
  ...TEXT,
  architectures: ['CLIPTextModelWithProjection'],
  hidden_size: 20,
  num_attention_heads: 4,
  projection_dim: 10,
}
const XL_UNET: Keys = {
  ...UNET,
  cross_attention_dim: 32,
  addition_embed_type: 'text_time',
  addition_time_embed_dim: 6,
  projection_class_embeddings_input_dim: 46,
}
const XL_INDEX: Keys = {
  _class_name: 'StableDiffusionXLPipeline',
  scheduler: ['diffusers', 'PNDMScheduler'],
  text_encoder: ['transformers', 'CLIPTextModel'],
  text_encoder_2: ['transformers', 'CLIPTextModelWithProjection'],
  tokenizer: ['transformers', 'CLIPTokenizer'],
  tokenizer_2: ['transformers', 'CLIPTokenizer'],
  unet: ['diffusers', 'UNet2DConditionModel'],
  vae: ['diffusers', 'AutoencoderKL'],
}

const SPEC: ModelSpec = {
  textEncoders: [textEncoderSpec(config(TEXT), 'first'), textEncoderSpec(config(SECOND), 'second')],
  unet: unetSpec(config(XL_UNET)),
  vae: vaeSpec(config(VAE)),
  noise: noiseSpec({ className: 'DDIMScheduler', config: {} }),
}

/** One part's weights under its folder's names; of a tensor that `without` names there is none. */
function weights(prefix: string, without?: string): Uint8Array {
  const tensors = [...expectedTensors(SPEC)].filter(([name]) => name.startsWith(prefix) && name !== prefix + without)
  return rawSafetensors(
    tensors.map(([name, shape]) => ({
      name: name.slice(prefix.length),
      dtype: 'F32',
      shape: [...shape],
      bytes: new Uint8Array(4 * shape.reduce((a, b) => a * b, 1)),
    })),
  )
}

function xlFolder(changes: Record<string, Uint8Array | string | null> = {}): string {
  const files = modelFiles((part) => weights(part === 'text_encoder' ? 'text_encoder.0.' : `${part}.`))
  return writeFolder({
    ...files,
    'model_index.json': JSON.stringify(XL_INDEX),
    'unet/config.json': JSON.stringify(XL_UNET),
    'text_encoder_2/config.json': JSON.stringify(SECOND),
    'text_encoder_2/model.safetensors': weights('text_encoder.1.'),
    'tokenizer_2/vocab.json': files['tokenizer/vocab.json']!,
    'tokenizer_2/merges.txt': files['tokenizer/merges.txt']!,
    'tokenizer_2/tokenizer_config.json': JSON.stringify({ pad_token: 'a' }),
    ...changes,
  })
}

const json = (keys: Keys): string => JSON.stringify(keys)

describe('a folder of SDXL', () => {
  test('has two encoders, each with its tokenizer and its padding', async () => {
    const model = await readModel(xlFolder())
    expect(model.spec).toEqual({ ...SPEC, noise: model.spec.noise })
    expect(model.spec.unet).toMatchObject({ pooledWidth: 10, timeIdWidth: 6 })
    const [first, second] = model.tokenizers.map((tokenizer) => tokenizer.padded([1]))
    expect(first?.slice(0, 5)).toEqual([4, 1, 5, 5, 5])
    expect(second?.slice(0, 5)).toEqual([4, 1, 5, 0, 0])
    expect(model.warnings).toEqual([])
  })

  test('gives the engine nothing that it would not read: the first encoder’s last layer and norm', async () => {
    const { tensors } = await readModel(xlFolder())
    const names = tensors.map(({ name }) => name)
    expect(names.filter((name) => /^text_encoder\.0\.(encoder\.layers\.1|final_layer_norm)/.test(name))).toEqual([])
    expect(names.filter((name) => /^text_encoder\.1\.(encoder\.layers\.1|final_layer_norm)/.test(name))).toHaveLength(
      18,
    )
    expect(names).toContain('text_encoder.1.text_projection.weight')
    expect(names).toContain('unet.add_embedding.linear_2.bias')
  })

  test('says how it is used: zeros without a negative prompt, guidance 5, the picture’s own sizes', async () => {
    const model = await readModel(xlFolder())
    expect(model).toMatchObject({ zeroNegative: true, defaults: { guidanceScale: 5 } })
    expect(timeIds(model, { width: 20, height: 30 })).toEqual([30, 20, 0, 0, 30, 20])
    const index = json({ ...XL_INDEX, force_zeros_for_empty_prompt: false })
    expect((await readModel(xlFolder({ 'model_index.json': index }))).zeroNegative).toBe(false)
  })

  test('splits a prompt alike for both encoders, or is refused', async () => {
    const alice = { name: 'alice', classWord: 'b', tokens: 1 }
    const read = async (changes = {}) => (await readModel(xlFolder(changes))).tokenizers
    const { ids, slots } = encodePrompt(await read(), 'bb <alice>', [alice])
    expect(ids.map((one) => one.slice(0, 6))).toEqual([
      [4, 1, 3, 3, 5, 5],
      [4, 1, 3, 3, 5, 0],
    ])
    expect(slots).toEqual([{ position: 3, subject: 0 }])
    const vocab = { a: 0, b: 1, 'a</w>': 2, 'b</w>': 3, '<|startoftext|>': 4, '<|endoftext|>': 5, 'bb</w>': 6 }
    const other = await read({
      'tokenizer_2/vocab.json': json(vocab),
      'tokenizer_2/merges.txt': '#version: 0.2\nb b</w>\n',
    })
    expect(() => encodePrompt(other, 'bb <alice>', [alice])).toThrow(
      expect.objectContaining({ code: 'SWAP_TOKENIZER_MISMATCH' }),
    )
  })

  test('has another fingerprint with another second encoder', async () => {
    const other = xlFolder({ 'text_encoder_2/config.json': json({ ...SECOND, hidden_act: 'gelu' }) })
    expect((await readModel(other)).fingerprint).not.toBe((await readModel(xlFolder())).fingerprint)
  })
})

test('the full architecture is known by its shapes: level 2 has its maps of 32 x 32', async () => {
  const { readDefaults } = await import('../../lib/model/defaults.ts')
  const full = {
    block_out_channels: [320, 640, 1280],
    down_block_types: ['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'],
    up_block_types: ['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'],
    attention_head_dim: [5, 10, 20],
    transformer_layers_per_block: [1, 2, 10],
    cross_attention_dim: 2048,
    sample_size: 128,
    addition_embed_type: 'text_time',
    addition_time_embed_dim: 256,
    projection_class_embeddings_input_dim: 2816,
  }
  const spec = { ...SPEC, unet: unetSpec(config(full)) }
  expect(spec.unet.pooledWidth).toBe(1280)
  const { family, defaults } = await readDefaults(writeFolder({ 'a.txt': '' }), spec)
  expect(family).toBe('sdxl')
  expect(defaults.learn.attention.levels).toEqual([2])
})

const refused: [string, string, Record<string, Uint8Array | string | null>, string][] = [
  [
    'the refiner, which has the second encoder alone',
    'SWAP_MODEL_UNSUPPORTED',
    { 'model_index.json': json({ ...XL_INDEX, text_encoder: [null, null] }) },
    'text_encoder',
  ],
  [
    'a second encoder that pools nothing',
    'SWAP_MODEL_UNSUPPORTED',
    { 'model_index.json': json({ ...XL_INDEX, text_encoder_2: ['transformers', 'CLIPTextModel'] }) },
    'text_encoder_2',
  ],
  [
    'a second tokenizer of another kind',
    'SWAP_MODEL_UNSUPPORTED',
    { 'model_index.json': json({ ...XL_INDEX, tokenizer_2: ['transformers', 'T5Tokenizer'] }) },
    'tokenizer_2',
  ],
  ['no second encoder', 'SWAP_MODEL_FILE_MISSING', noFiles('text_encoder_2'), 'text_encoder_2'],
  ['no second tokenizer', 'SWAP_MODEL_FILE_MISSING', noFiles('tokenizer_2'), 'tokenizer_2'],
  [
    'encoders whose states are too narrow together',
    'SWAP_MODEL_UNSUPPORTED',
    { 'unet/config.json': json({ ...XL_UNET, cross_attention_dim: 36 }) },
    'the text encoders give 12 and 20',
  ],
  [
    'another pooled width',
    'SWAP_MODEL_UNSUPPORTED',
    { 'text_encoder_2/config.json': json({ ...SECOND, projection_dim: 12 }) },
    'a pooled text state of width 10, the text encoders give 12',
  ],
  [
    'a U-Net of Stable Diffusion 1.x',
    'SWAP_MODEL_UNSUPPORTED',
    { 'unet/config.json': json({ ...UNET, cross_attention_dim: 32 }) },
    'a pooled text state of width 0',
  ],
  [
    'an SDXL U-Net in a folder with one encoder',
    'SWAP_MODEL_UNSUPPORTED',
    {
      'model_index.json': json({ ...XL_INDEX, text_encoder_2: undefined, tokenizer_2: undefined }),
      'unet/config.json': json({ ...XL_UNET, cross_attention_dim: 12 }),
    },
    'the text encoders give 0',
  ],
  [
    'encoders that take texts of different lengths',
    'SWAP_MODEL_UNSUPPORTED',
    { 'text_encoder_2/config.json': json({ ...SECOND, max_position_embeddings: 40 }) },
    '77 and 40 tokens',
  ],
  [
    'no projection',
    'SWAP_MODEL_TENSOR_MISSING',
    { 'text_encoder_2/model.safetensors': weights('text_encoder.1.', 'text_projection.weight') },
    'text_encoder.1.text_projection.weight',
  ],
  [
    'the first encoder cut short, though its last layer is not used',
    'SWAP_MODEL_TENSOR_MISSING',
    { 'text_encoder/model.safetensors': weights('text_encoder.0.', 'encoder.layers.1.mlp.fc1.bias') },
    'text_encoder.0.encoder.layers.1.mlp.fc1.bias',
  ],
  [
    'no added embedding',
    'SWAP_MODEL_TENSOR_MISSING',
    { 'unet/diffusion_pytorch_model.safetensors': weights('unet.', 'add_embedding.linear_1.weight') },
    'unet.add_embedding.linear_1.weight',
  ],
]

function noFiles(folder: string): Record<string, null> {
  const names = ['config.json', 'model.safetensors', 'vocab.json', 'merges.txt', 'tokenizer_config.json']
  return Object.fromEntries(names.map((name) => [`${folder}/${name}`, null]))
}

test.each(refused)('%s is refused', async (_, code, changes, message) => {
  await expect(readModel(xlFolder(changes))).rejects.toMatchObject({ code, message: expect.stringContaining(message) })
})
