/** Single files by their complete lists of tensors, as diffusers' own conversion reads them. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readSingleFile } from '../../lib/model/single_file.ts'
import { ClipTokenizer } from '../../lib/prompt/index.ts'

/** LDM's name -> shape and the names of what it becomes. */
type Tensors = Record<string, [shape: number[], becomes: string[]]>
const goldens = JSON.parse(
  gunzipSync(readFileSync(new URL('goldens/single_files.json.gz', import.meta.url))).toString(),
) as Record<string, Tensors>

const scratch = mkdtempSync(join(tmpdir(), 'swap-single-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

/** A file of that header, in half precision, whose numbers are a hole. */
function sparse(name: string, tensors: Tensors, metadata: Record<string, string> = {}) {
  let offset = 0
  const entries = Object.entries(tensors).map(([key, [shape]]) => {
    const begin = offset
    offset += 2 * shape.reduce((all, one) => all * one, 1)
    return [key, { dtype: 'F16', shape, data_offsets: [begin, offset] }]
  })
  const header = Buffer.from(JSON.stringify({ __metadata__: metadata, ...Object.fromEntries(entries) }))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  const path = join(scratch, `${name}.safetensors`)
  writeFileSync(path, Buffer.concat([length, header]))
  truncateSync(path, 8 + header.length + offset)
  return { path, begin: 8 + header.length }
}

const SPECS: Record<string, { unet: object; vae: object; text: object[]; prediction: string; scheduler: string }> = {
  'v1-5': {
    unet: { inChannels: 4, crossAttentionDim: 768, linearProjection: false, midHeads: 8, sampleSize: 64 },
    vae: { channels: [128, 256, 512, 512], layers: 2, latentChannels: 4, scalingFactor: 0.18215 },
    text: [
      { width: 768, layers: 12, heads: 12, activation: 'quick_gelu', skipLayers: 0, finalNorm: true, projectionDim: 0 },
    ],
    prediction: 'epsilon',
    scheduler: 'PNDMScheduler',
  },
  'v1-5-inpainting': {
    unet: { inChannels: 9, outChannels: 4, crossAttentionDim: 768 },
    vae: { latentChannels: 4 },
    text: [{ width: 768 }],
    prediction: 'epsilon',
    scheduler: 'PNDMScheduler',
  },
  'v2-1': {
    unet: { crossAttentionDim: 1024, linearProjection: true, midHeads: 20, sampleSize: 96, upcastAttention: true },
    vae: { scalingFactor: 0.18215 },
    text: [{ width: 1024, layers: 23, heads: 16, activation: 'gelu', skipLayers: 0, finalNorm: true, eos: 49407 }],
    prediction: 'v_prediction',
    scheduler: 'DDIMScheduler',
  },
  sd_xl_base: {
    unet: { crossAttentionDim: 2048, midTransformerLayers: 10, sampleSize: 128, pooledWidth: 1280, timeIdWidth: 256 },
    vae: { scalingFactor: 0.13025 },
    text: [
      { width: 768, layers: 12, skipLayers: 1, finalNorm: false, projectionDim: 0 },
      { width: 1280, layers: 32, heads: 20, skipLayers: 1, finalNorm: false, projectionDim: 1280, activation: 'gelu' },
    ],
    prediction: 'epsilon',
    scheduler: 'EulerDiscreteScheduler',
  },
}

describe.each(Object.entries(goldens))('%s', (name, tensors) => {
  let read: Awaited<ReturnType<typeof readSingleFile>>
  let first: number
  beforeAll(async () => {
    const { path, begin } = sparse(name, tensors)
    first = begin
    read = await readSingleFile(path, {})
  })

  test('its spec follows from the tensors', () => {
    const { unet, vae, text, prediction, scheduler } = SPECS[name]!
    expect(read.spec.unet).toMatchObject(unet)
    expect(read.spec.vae).toMatchObject(vae)
    expect(read.spec.textEncoders).toMatchObject(text)
    expect(read.spec.textEncoders).toHaveLength(text.length)
    expect(read.spec.noise.predictionType).toBe(prediction)
    expect(read.scheduler.className).toBe(scheduler)
  })

  test('every tensor becomes what diffusers makes of it, once', () => {
    const wanted = new Map(Object.entries(tensors).flatMap(([key, [, names]]) => names.map((to, k) => [to, [key, k]])))
    expect(read.tensors.map((entry) => entry.name).sort()).toEqual([...wanted.keys()].sort())
    const begins = new Map<string, number>()
    let offset = first
    for (const [key, [shape]] of Object.entries(tensors)) {
      begins.set(key, offset)
      offset += 2 * shape.reduce((all, one) => all * one, 1)
    }
    for (const { name: to, begin, end, shape } of read.tensors) {
      const [key, part] = wanted.get(to) as [string, number]
      const bytes = 2 * shape.reduce((all, one) => all * one, 1)
      expect([to, begin, end]).toEqual([to, begins.get(key)! + part * bytes, begins.get(key)! + (part + 1) * bytes])
    }
    const spans = read.tensors.map(({ begin, end }) => [begin, end] as const).sort((a, b) => a[0] - b[0])
    expect(spans.every(([begin], index) => index === 0 || begin >= spans[index - 1]![1])).toBe(true)
  })

  test('nothing is left over but what is known to be of no use', () => {
    expect(read.warnings.filter((warning) => warning.includes('not used'))).toEqual([])
  })
})

describe('what the tensors do not say', () => {
  const two = goldens['v2-1']!

  test('2.x is taken for v, with a warning that names the option', async () => {
    const { warnings } = await readSingleFile(sparse('a', two).path, {})
    expect(warnings.join()).toContain("predictionType: 'epsilon'")
  })

  test('the option decides, and the size follows', async () => {
    const { spec, warnings } = await readSingleFile(sparse('b', two).path, { predictionType: 'epsilon' })
    expect(spec.noise.predictionType).toBe('epsilon')
    expect(spec.unet.sampleSize).toBe(64)
    expect(warnings).toEqual([])
  })

  test('2.x with nine channels is its inpainting model, which predicts noise at 512 px', async () => {
    const first = 'model.diffusion_model.input_blocks.0.0.weight'
    const nine = { ...two, [first]: [[320, 9, 3, 3], two[first]![1]] } as Tensors
    const { path } = sparse('nine', nine)
    const { spec, warnings } = await readSingleFile(path, {})
    expect(spec.noise.predictionType).toBe('epsilon')
    expect(spec.unet).toMatchObject({ inChannels: 9, outChannels: 4, sampleSize: 64 })
    expect(warnings).toEqual([])
    const other = await readSingleFile(path, { predictionType: 'v_prediction' })
    expect(other.spec.noise.predictionType).toBe('v_prediction')
  })

  test.each<[string, { prediction_type?: string }, number]>([
    ['v2-1', { prediction_type: 'v_prediction' }, 96],
    ['v2-1', { prediction_type: 'epsilon' }, 64],
    ['v2-1', {}, 64],
    ['sd_xl_base', {}, 128],
    ['v1-5', { prediction_type: 'v_prediction' }, 64],
  ])('a folder with a scheduler alone: %s, %o', async (name, keys, sampleSize) => {
    const config = mkdtempSync(join(scratch, 'config-'))
    mkdirSync(join(config, 'scheduler'))
    const words = { _class_name: 'DDIMScheduler', beta_schedule: 'scaled_linear', ...keys }
    writeFileSync(join(config, 'scheduler', 'scheduler_config.json'), JSON.stringify(words))
    const { spec, warnings } = await readSingleFile(sparse(name, goldens[name]!).path, { config })
    expect(spec.noise.predictionType).toBe(keys.prediction_type ?? 'epsilon')
    expect(spec.unet.sampleSize).toBe(sampleSize)
    expect(warnings).toEqual([])
  })

  test('so do words in the metadata', async () => {
    const { spec, warnings } = await readSingleFile(
      sparse('c', two, { 'modelspec.prediction_type': 'epsilon' }).path,
      {},
    )
    expect(spec.noise.predictionType).toBe('epsilon')
    expect(warnings).toEqual([])
  })

  test('and the marks that some fine-tunes of XL carry', async () => {
    const marked = { ...goldens.sd_xl_base!, v_pred: [[0], []], ztsnr: [[0], []] } as Tensors
    const { spec } = await readSingleFile(sparse('d', marked).path, {})
    expect(spec.noise).toMatchObject({ predictionType: 'v_prediction', zeroTerminalSnr: true })
  })

  test('Playground 2.5 has the tensors of XL, and is refused', async () => {
    const marked = { ...goldens.sd_xl_base!, edm_mean: [[4], []], edm_std: [[4], []] } as Tensors
    await expect(readSingleFile(sparse('e', marked).path, {})).rejects.toMatchObject({
      code: 'SWAP_MODEL_UNSUPPORTED',
      message: expect.stringContaining('Playground 2.5'),
    })
  })

  test('padding is the end token in 1.x and "!" in 2.x; XL has one of each', async () => {
    const pads = async (name: string) => {
      const { openTokenizers } = await readSingleFile(sparse(name, goldens[name]!).path, {})
      return (await openTokenizers()).map(({ pad }) => pad)
    }
    expect(await pads('v1-5')).toEqual([49407])
    expect(await pads('v2-1')).toEqual([0])
    expect(await pads('sd_xl_base')).toEqual([49407, 0])
  })
})

test("CLIP's vocabulary of the package splits as CLIP does", async () => {
  const tokenizer = await ClipTokenizer.standard('<|endoftext|>', { positions: 77, vocab: 49408 })
  expect(tokenizer.tokens('a photo of a cat')).toEqual([320, 1125, 539, 320, 2368])
  expect(tokenizer.tokens('Hello, world!')).toEqual([3306, 267, 1002, 256])
  expect([tokenizer.bos, tokenizer.eos]).toEqual([49406, 49407])
})
