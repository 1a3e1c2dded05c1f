import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import type { SwapError } from '../../lib/errors.ts'
import { floatBitsToHalf } from '../../lib/model/float.ts'
import { readModel } from '../../lib/model/index.ts'
import { writeSafetensors } from '../../lib/model/safetensors.ts'
import type { NativeTensor } from '../../lib/native.ts'
import {
  modelFiles,
  type RawTensor,
  rawSafetensors,
  SCHEDULER,
  TEXT,
  tensorsOf,
  UNET,
  VAE,
  writeFolder,
} from './folder_of.ts'

type Part = 'unet' | 'vae' | 'text_encoder'
type Files = Record<string, Uint8Array | string | null>

const folders: string[] = []
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

function model(change: Files = {}, tensors = (part: Part) => writeSafetensors(tensorsOf(part))): string {
  const folder = writeFolder({ ...modelFiles(tensors), ...change })
  folders.push(folder)
  return folder
}

async function failure(change: Files): Promise<SwapError> {
  try {
    await readModel(model(change))
  } catch (error) {
    return error as SwapError
  }
  throw new Error('nothing was thrown')
}

const WEIGHTS = {
  unet: 'unet/diffusion_pytorch_model.safetensors',
  vae: 'vae/diffusion_pytorch_model.safetensors',
  text_encoder: 'text_encoder/model.safetensors',
} as const

/** The weights of a part after a change to its tensors. */
const changed = (part: Part, change: (tensors: NativeTensor[]) => NativeTensor[]): Files => ({
  [WEIGHTS[part]]: writeSafetensors(change(tensorsOf(part))),
})

const asHalves = ({ name, shape, data }: NativeTensor): RawTensor => {
  const bits = new Uint32Array(data.buffer)
  return { name, dtype: 'F16', shape, bytes: new Uint8Array(Uint16Array.from(bits, floatBitsToHalf).buffer) }
}

describe('the embedded model', () => {
  test('is known by name', async () => {
    const mini = await readModel('mini')
    expect(mini).toMatchObject({ name: 'mini', family: 'mini', resolution: 128, vaeFactor: 8, warnings: [] })
    expect(mini.path.endsWith(join('models', 'mini'))).toBe(true)
    expect(mini.defaults).toMatchObject({
      guidanceScale: 5,
      steps: 30,
      learn: {
        steps: 500,
        learningRate: 0.02,
        batch: 4,
        attention: { weight: 0.00001, levels: [0, 1] },
        parametrization: 'direct',
      },
    })
    expect(mini.spec.unet.levels.map(({ heads }) => heads)).toEqual([2, 4, 4])
    expect(mini.tensors).toHaveLength(578)
  })
})

describe('a folder', () => {
  test('is read to the last tensor', async () => {
    const path = model()
    const read = await readModel(path)
    expect(read).toMatchObject({ name: basename(path), path, family: 'custom', resolution: 16, vaeFactor: 2 })
    expect(read.warnings).toEqual([])
    expect(read.scheduler.className).toBe('PNDMScheduler')
    expect(read.tokenizers).toHaveLength(1)
    const parts = { unet: 0, vae: 0, text_encoder: 0 }
    for (const { name, file, begin, end, shape, dtype } of read.tensors) {
      const part = name.split('.')[0] as Part
      parts[part]++
      expect(file).toBe(join(path, WEIGHTS[part]))
      expect(end - begin).toBe(4 * shape.reduce((a, b) => a * b, 1))
      expect(dtype).toBe('F32')
    }
    for (const part of ['unet', 'vae', 'text_encoder'] as const) expect(parts[part]).toBe(tensorsOf(part).length)
  })

  test('has defaults of its own in swap.json', async () => {
    const swap = {
      family: 'sd1',
      defaults: { guidanceScale: 3, learn: { steps: 7, attention: { levels: [0] }, parametrization: 'direct' } },
    }
    const read = await readModel(model({ 'swap.json': JSON.stringify(swap) }))
    expect(read).toMatchObject({
      family: 'sd1',
      defaults: {
        guidanceScale: 3,
        steps: 30,
        learn: { steps: 7, learningRate: 1e-4, batch: 1, parametrization: 'direct' },
      },
    })
  })

  test('without swap.json takes the usual levels that have attention', async () => {
    const { defaults } = await readModel(model())
    expect(defaults.learn.attention.levels).toEqual([1])
    expect(defaults).toMatchObject({
      guidanceScale: 7.5,
      steps: 30,
      learn: { steps: 600, attention: { weight: 0.003 }, parametrization: 'attention' },
    })
  })

  test('may be a link, as hub caches have them', async () => {
    const target = model()
    const link = `${target}-link`
    symlinkSync(target, link)
    folders.push(link)
    expect((await readModel(link)).tensors.length).toBeGreaterThan(0)
  })
})

describe('weights', () => {
  const table = async (path: string) =>
    (await readModel(path)).tensors.map(({ name, shape, dtype }) => `${dtype} ${name} [${shape}]`)

  test('of halves in files of the fp16 variant', async () => {
    const path = model({ [WEIGHTS.unet]: null, [WEIGHTS.text_encoder]: null })
    writeFileSync(
      join(path, 'unet/diffusion_pytorch_model.fp16.safetensors'),
      rawSafetensors(tensorsOf('unet').map(asHalves)),
    )
    writeFileSync(
      join(path, 'text_encoder/model.fp16.safetensors'),
      rawSafetensors(tensorsOf('text_encoder').map(asHalves)),
    )
    const { tensors } = await readModel(path)
    expect(new Set(tensors.map(({ name, dtype }) => `${name.split('.')[0]} ${dtype}`))).toEqual(
      new Set(['text_encoder F16', 'unet F16', 'vae F32']),
    )
  })

  test('of the plain file go before those of the fp16 variant', async () => {
    const path = model({ 'unet/diffusion_pytorch_model.fp16.safetensors': 'not read' })
    expect(await table(path)).toEqual(await table(model()))
  })

  const shards = (index: string, names: [string, string]): Files => {
    const tensors = tensorsOf('unet')
    const half = tensors.length >> 1
    const map = tensors.map(({ name }, at) => [name, at < half ? names[0] : names[1]])
    return {
      [WEIGHTS.unet]: null,
      [`unet/${index}`]: JSON.stringify({ metadata: { total_size: 1 }, weight_map: Object.fromEntries(map) }),
      [`unet/${names[0]}`]: writeSafetensors(tensors.slice(0, half)),
      [`unet/${names[1]}`]: writeSafetensors(tensors.slice(half)),
    }
  }

  test.each<[string, [string, string]]>([
    [
      'diffusion_pytorch_model.safetensors.index.json',
      ['diffusion_pytorch_model-00001-of-00002.safetensors', 'diffusion_pytorch_model-00002-of-00002.safetensors'],
    ],
    [
      'diffusion_pytorch_model.safetensors.index.fp16.json',
      [
        'diffusion_pytorch_model.fp16-00001-of-00002.safetensors',
        'diffusion_pytorch_model.fp16-00002-of-00002.safetensors',
      ],
    ],
  ])('in shards of %s', async (index, names) => {
    const path = model(shards(index, names))
    expect(await table(path)).toEqual(await table(model()))
    const files = new Set((await readModel(path)).tensors.map(({ file }) => basename(file)))
    expect([...files]).toEqual(expect.arrayContaining(names))
  })

  test('with the older names of keys, and what files carry besides', async () => {
    const old: Record<string, string> = { to_q: 'query', to_k: 'key', to_v: 'value', 'to_out.0': 'proj_attn' }
    const path = model({
      ...changed('text_encoder', (tensors) => [
        ...tensors.map((tensor) => ({ ...tensor, name: `text_model.${tensor.name}` })),
        { name: 'text_model.embeddings.position_ids', shape: [1, 2], data: Float32Array.of(0, 1) },
        { name: 'text_projection.weight', shape: [1, 1], data: Float32Array.of(1) },
      ]),
      ...changed('vae', (tensors) =>
        tensors.map((tensor) => {
          const found = /^(.*\.attentions\.0\.)(to_q|to_k|to_v|to_out\.0)\.(weight|bias)$/.exec(tensor.name)
          if (!found) return tensor
          const shape = found[3] === 'weight' ? [...tensor.shape, 1, 1] : tensor.shape
          return { ...tensor, name: `${found[1]}${old[found[2]!]}.${found[3]}`, shape }
        }),
      ),
    })
    expect(await table(path)).toEqual(await table(model()))
    expect((await readModel(path)).warnings).toEqual([])
  })

  test('that nothing uses are told', async () => {
    const extra = { name: 'lora.up.weight', shape: [1], data: Float32Array.of(1) }
    const { warnings } = await readModel(model(changed('unet', (tensors) => [...tensors, extra])))
    expect(warnings).toEqual([expect.stringContaining('unet.lora.up.weight')])
  })

  test('keys of a config that nobody knows are told', async () => {
    const { warnings } = await readModel(
      model({ 'unet/config.json': JSON.stringify({ ...UNET, wings: 2, tail: null }) }),
    )
    expect(warnings).toEqual([expect.stringContaining('wings')])
  })
})

describe('the fingerprint', () => {
  test('is one for the fp32 and the fp16 files of a model', async () => {
    const halves = rawSafetensors(tensorsOf('text_encoder').map(asHalves))
    const [one, two] = [await readModel(model()), await readModel(model({ [WEIGHTS.text_encoder]: halves }))]
    expect(two.fingerprint).toBe(one.fingerprint)
    expect(one.fingerprint).toMatch(/^[0-9a-f]{64}$/)
  })

  test("changes with a token's row and with the text encoder's config, not with the U-Net", async () => {
    const { fingerprint } = await readModel(model())
    const nudged = (name: RegExp) => (tensors: NativeTensor[]) =>
      tensors.map((tensor) => (name.test(tensor.name) ? { ...tensor, data: tensor.data.map((x) => x + 1) } : tensor))
    const row = await readModel(model(changed('text_encoder', nudged(/token_embedding/))))
    const gelu = await readModel(model({ 'text_encoder/config.json': JSON.stringify({ ...TEXT, hidden_act: 'gelu' }) }))
    const unet = await readModel(model(changed('unet', nudged(/conv_in/))))
    expect(new Set([fingerprint, row.fingerprint, gelu.fingerprint]).size).toBe(3)
    expect(unet.fingerprint).toBe(fingerprint)
  })
})

describe('a wrong folder', () => {
  test('that is not there, or is a file, or is no model', async () => {
    await expect(readModel('/no/such/folder')).rejects.toMatchObject({ code: 'SWAP_MODEL_NOT_FOUND' })
    const path = model()
    await expect(readModel(join(path, 'model_index.json'))).rejects.toMatchObject({ code: 'SWAP_MODEL_NOT_A_FOLDER' })
    mkdirSync(join(path, 'empty'))
    await expect(readModel(join(path, 'empty'))).rejects.toMatchObject({ code: 'SWAP_MODEL_LAYOUT' })
  })

  const index = (change: object) =>
    JSON.stringify({ ...JSON.parse(String(modelFiles(() => new Uint8Array())['model_index.json'])), ...change })
  const map = (weights: object): Files => ({
    [WEIGHTS.unet]: null,
    'unet/diffusion_pytorch_model.safetensors.index.json': JSON.stringify({ weight_map: weights }),
  })

  test.each<[string, string, Files, string?]>([
    ['no U-Net config', 'SWAP_MODEL_FILE_MISSING', { 'unet/config.json': null }, 'unet/config.json'],
    ['no scheduler', 'SWAP_MODEL_FILE_MISSING', { 'scheduler/scheduler_config.json': null }, 'scheduler'],
    ['no weights', 'SWAP_MODEL_FILE_MISSING', { [WEIGHTS.vae]: null }, WEIGHTS.vae],
    ['no tokenizer', 'SWAP_TOKENIZER_MISSING', { 'tokenizer/vocab.json': null }, 'vocab.json'],
    [
      'pickled weights only',
      'SWAP_MODEL_PICKLE',
      { [WEIGHTS.unet]: null, 'unet/diffusion_pytorch_model.bin': 'PK' },
      'diffusion_pytorch_model.bin',
    ],
    ['a config cut short', 'SWAP_MODEL_CONFIG', { 'vae/config.json': '{"act_fn": "si' }, 'vae/config.json'],
    ['a config that is a list', 'SWAP_MODEL_CONFIG', { 'vae/config.json': '[]' }],
    ['a config of other bytes', 'SWAP_MODEL_CONFIG', { 'vae/config.json': new Uint8Array([0x80, 0x81]) }],
    [
      'an index without a map',
      'SWAP_MODEL_CONFIG',
      { ...map({}), 'unet/diffusion_pytorch_model.safetensors.index.json': '{}' },
    ],
    ['a shard above the folder', 'SWAP_MODEL_SHARD', map({ 'conv_in.weight': '../vae/x.safetensors' }), '../vae'],
    ['a shard by an absolute path', 'SWAP_MODEL_SHARD', map({ 'conv_in.weight': '/etc/x.safetensors' })],
    ['a shard behind a backslash', 'SWAP_MODEL_SHARD', map({ 'conv_in.weight': '..\\x.safetensors' })],
    ['a shard that is hidden', 'SWAP_MODEL_SHARD', map({ 'conv_in.weight': '..safetensors' })],
    ['a shard that is no tensors', 'SWAP_MODEL_SHARD', map({ 'conv_in.weight': 'config.json' })],
    ['a shard that is a number', 'SWAP_MODEL_SHARD', map({ 'conv_in.weight': 5 })],
    ['a shard that is missing', 'SWAP_MODEL_FILE_MISSING', map({ 'conv_in.weight': 'a.safetensors' }), 'a.safetensors'],
    [
      'a shard without its tensor',
      'SWAP_MODEL_SHARD',
      { ...map({ 'conv_in.weight': 'a.safetensors' }), 'unet/a.safetensors': writeSafetensors([]) },
      'conv_in.weight',
    ],
    ['weights cut short', 'SWAP_TENSOR_CUT_SHORT', { [WEIGHTS.vae]: writeSafetensors(tensorsOf('vae')).slice(0, -9) }],
    ['a text file for weights', 'SWAP_TENSOR_HEADER', { [WEIGHTS.vae]: 'version 1\noid sha256:00\n' }],
    [
      'a tensor missing',
      'SWAP_MODEL_TENSOR_MISSING',
      changed('unet', (tensors) => tensors.filter(({ name }) => name !== 'conv_out.bias')),
      'unet.conv_out.bias',
    ],
    [
      'a tensor of another shape',
      'SWAP_MODEL_TENSOR_SHAPE',
      changed('unet', (tensors) =>
        tensors.map((one) => (one.name === 'conv_in.weight' ? { ...one, shape: [8, 36] } : one)),
      ),
      'unet.conv_in.weight has shape [8,36]; config.json asks for [8,4,3,3]',
    ],
    [
      'a tensor under two names',
      'SWAP_MODEL_TENSOR_TWICE',
      changed('text_encoder', (tensors) => [...tensors, { ...tensors[0]!, name: `text_model.${tensors[0]!.name}` }]),
    ],
    [
      'whole numbers for weights',
      'SWAP_TENSOR_DTYPE',
      {
        [WEIGHTS.vae]: rawSafetensors(
          tensorsOf('vae').map(({ name, shape, data }) => ({
            name,
            shape,
            dtype: 'I8',
            bytes: new Uint8Array(data.length),
          })),
        ),
      },
    ],
    [
      'a second text encoder that pools nothing',
      'SWAP_MODEL_UNSUPPORTED',
      { 'model_index.json': index({ text_encoder_2: ['transformers', 'CLIPTextModel'] }) },
      'text_encoder_2',
    ],
    [
      'another U-Net',
      'SWAP_MODEL_UNSUPPORTED',
      { 'model_index.json': index({ unet: ['diffusers', 'UNetFlatConditionModel'] }) },
      'unet',
    ],
    [
      'another tokenizer',
      'SWAP_MODEL_UNSUPPORTED',
      { 'model_index.json': index({ tokenizer: ['transformers', 'XLMRobertaTokenizer'] }) },
      'tokenizer',
    ],
    [
      'a U-Net that is told a depth',
      'SWAP_MODEL_UNSUPPORTED',
      { 'unet/config.json': JSON.stringify({ ...UNET, in_channels: 5 }) },
      '5 channels',
    ],
    [
      'a U-Net for another encoder',
      'SWAP_MODEL_UNSUPPORTED',
      { 'unet/config.json': JSON.stringify({ ...UNET, cross_attention_dim: 16 }) },
      '16',
    ],
    [
      'weights of another VAE',
      'SWAP_MODEL_TENSOR_SHAPE',
      { 'vae/config.json': JSON.stringify({ ...VAE, block_out_channels: [8, 8] }) },
    ],
    [
      'another noise',
      'SWAP_SCHEDULER_UNSUPPORTED',
      { 'scheduler/scheduler_config.json': JSON.stringify({ ...SCHEDULER, beta_schedule: 'sigmoid' }) },
    ],
    ['a vocabulary too large', 'SWAP_TOKENIZER_VOCAB', { 'tokenizer/added_tokens.json': '{"<toy>": 99}' }],
    [
      'a swap.json for a level without attention',
      'SWAP_MODEL_CONFIG',
      { 'swap.json': '{"defaults":{"learn":{"attention":{"levels":[2]}}}}' },
    ],
    [
      'a swap.json of an unknown parametrization',
      'SWAP_MODEL_CONFIG',
      { 'swap.json': '{"defaults":{"learn":{"parametrization":"mlp"}}}' },
    ],
    ['a swap.json of an unknown family', 'SWAP_MODEL_CONFIG', { 'swap.json': '{"family":"sd9"}' }],
  ])('with %s is %s', async (_, code, change, says) => {
    const error = await failure(change)
    expect(error.code).toBe(code)
    if (says !== undefined) expect(error.message).toContain(says)
    expect(error.hint).toBeTruthy()
  })
})
