/** ControlNets: attached when they are first used, shared, released; what the engine is asked for and what is refused. */
import { mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { SwapError } from '../../lib/errors.ts'
import type { GenerateOptions } from '../../lib/options.ts'
import { controlSpecFor, writeControl } from '../model/control_kit.ts'
import { generateResult, nativeError, PROGRESS } from './fake_binding.ts'
import { binding, engine, mini, open, PHOTO, until, useFakeBinding } from './fixture.ts'

useFakeBinding()

let folder: string
let edges: string
let depth: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'swap-controls-'))
  edges = writeControl(join(folder, 'edges'), controlSpecFor(mini.spec))
  depth = writeControl(join(folder, 'depth'), controlSpecFor(mini.spec))
})
afterAll(() => rmSync(folder, { recursive: true }))
beforeEach(() => {
  binding.onGenerate = (call) => call.resolve(generateResult(call.request))
})

const grey = (value: number, width = 128, height = width) => ({
  data: new Uint8Array(width * height * 3).fill(value),
  width,
  height,
})
const drawing = (...control: NonNullable<GenerateOptions['control']>): GenerateOptions => ({ prompt: 'a dog', control })

describe('a ControlNet', () => {
  test('is attached anew where the weights were read again', async () => {
    const personalizer = await open()
    await personalizer.generate(drawing({ model: edges, image: grey(7) }))
    await personalizer.setLoras([])
    await personalizer.generate(drawing({ model: edges, image: grey(7) }))
    expect(engine().attaches.map(({ request }) => request.name)).toEqual([edges, edges])
    await personalizer.close()
  })

  test('is attached once, under its real path, and asked for with its picture', async () => {
    const personalizer = await open()
    const link = join(folder, 'link')
    symlinkSync(edges, link)
    await personalizer.generate(drawing({ model: edges, image: grey(7), scale: 0.5, start: 0.25, end: 0.75 }))
    const [image] = await personalizer.generate(
      drawing({ model: link, image: grey(9) }, { model: depth, image: PHOTO }),
    )
    const { attaches, generates } = engine()
    expect(attaches.map(({ request }) => request.name)).toEqual([edges, depth])
    expect(attaches[0]!.request.spec).toMatchObject({ imageWidths: [4, 8, 12, 16] })
    const asked = generates.map(({ request }) =>
      request.controls?.map(({ image, ...rest }) => ({ ...rest, image: [image.width, image.height, image.data[0]] })),
    )
    expect(asked).toEqual([
      [{ net: edges, image: [128, 128, 7], scale: 0.5, start: 0.25, end: 0.75 }],
      [
        { net: edges, image: [128, 128, 9], scale: 1, start: 0, end: 1 },
        { net: depth, image: [128, 128, expect.any(Number)], scale: 1, start: 0, end: 1 },
      ],
    ])
    expect(image?.parameters.control).toEqual([
      { model: 'link', image: expect.stringMatching(/^[0-9a-f]{64}$/), scale: 1, start: 0, end: 1 },
      { model: 'depth', image: expect.stringMatching(/^[0-9a-f]{64}$/), scale: 1, start: 0, end: 1 },
    ])
    await personalizer.close()
  })

  test('says how far its weights are read', async () => {
    const personalizer = await open()
    binding.onAttach = (call) => {
      call.emit({ ...PROGRESS, phase: 'load', done: 3, total: 4 })
      call.resolve({ parameters: 1, weightBytes: 4 })
    }
    const events = []
    for await (const event of personalizer.generate(drawing({ model: edges, image: grey(0) }))) events.push(event)
    expect(events).toEqual([{ type: 'load', step: 3, steps: 4, secondsLeft: expect.any(Number) }])
    await personalizer.close()
  })

  test('is read again when its files are others, or when reading it has failed', async () => {
    const personalizer = await open()
    const net = writeControl(join(folder, 'changing'), controlSpecFor(mini.spec))
    const draw = () => personalizer.generate(drawing({ model: net, image: grey(0) }))
    binding.onAttach = (call) => call.reject(nativeError('SWAP_MODEL_FILE'))
    await expect(draw()).rejects.toMatchObject({ code: 'SWAP_MODEL_FILE' })
    binding.onAttach = (call) => call.resolve({ parameters: 1, weightBytes: 4 })
    await draw()
    expect(engine().attaches).toHaveLength(2)
    utimesSync(join(net, 'config.json'), 1e9, 1e9)
    await draw()
    await draw()
    expect(engine().attaches).toHaveLength(3)
    await personalizer.close()
  })

  test('is read again after other LoRA, for the engine has let it go', async () => {
    const personalizer = await open()
    const draw = () => personalizer.generate(drawing({ model: edges, image: grey(0) }))
    await draw()
    await personalizer.setLoras([])
    await draw()
    await draw()
    expect(engine().attaches).toHaveLength(2)
    await personalizer.close()
  })

  test('of two calls at once is attached once', async () => {
    const personalizer = await open()
    binding.onAttach = () => {}
    const jobs = [1, 2].map(() => personalizer.generate(drawing({ model: edges, image: grey(0) })))
    await until(() => engine().attaches.length)
    engine().attaches[0]!.resolve({ parameters: 1, weightBytes: 4 })
    await Promise.all(jobs)
    expect(engine().attaches).toHaveLength(1)
    expect(engine().generates).toHaveLength(2)
    await personalizer.close()
  })

  test('lets a call go that is cancelled while another reads a net', async () => {
    const personalizer = await open()
    binding.onAttach = () => {}
    const first = personalizer.generate(drawing({ model: edges, image: grey(0) }))
    await until(() => engine().attaches.length)
    const second = personalizer.generate(drawing({ model: depth, image: grey(0) }))
    second.cancel('enough')
    await expect(second).rejects.toBe('enough')
    engine().attaches[0]!.resolve({ parameters: 1, weightBytes: 4 })
    await first
    expect(engine().attaches).toHaveLength(1)
    await personalizer.close()
  })

  test('cancelled while it is read is not drawn with', async () => {
    const personalizer = await open()
    binding.onAttach = () => {}
    const job = personalizer.generate(drawing({ model: edges, image: grey(0) }))
    await until(() => engine().attaches.length)
    job.cancel('enough')
    await expect(job).rejects.toBe('enough')
    expect(engine().attaches[0]!.cancelled).toBe(true)
    expect(engine().generates).toEqual([])
    await personalizer.close()
  })

  test('is released once, by the words that it was asked for with, and read again when it is needed', async () => {
    const personalizer = await open()
    const net = writeControl(join(folder, 'gone'), controlSpecFor(mini.spec))
    await personalizer.release(net)
    expect(engine().attaches).toEqual([])
    await personalizer.generate(drawing({ model: net, image: grey(0) }))
    rmSync(net, { recursive: true })
    await personalizer.release(net)
    await personalizer.release(net)
    expect(
      engine()
        .attaches.slice(1)
        .map(({ request }) => request),
    ).toEqual([{ name: net, tensors: [] }])
    writeControl(net, controlSpecFor(mini.spec))
    await personalizer.generate(drawing({ model: net, image: grey(0) }))
    expect(engine().attaches).toHaveLength(3)
    await personalizer.close()
    await expect(personalizer.release(net)).rejects.toMatchObject({ code: 'SWAP_DISPOSED' })
  })

  test('does not keep a picture waiting for the one before it', async () => {
    const personalizer = await open()
    binding.onGenerate = () => {}
    const jobs = [1, 2].map(() => personalizer.generate(drawing({ model: edges, image: grey(0) })))
    await until(() => engine().generates.length === 2)
    for (const call of engine().generates) call.resolve(generateResult(call.request))
    await Promise.all(jobs)
    await personalizer.close()
  })

  test('warns where it takes part in no step, and where its picture is stretched', async () => {
    const personalizer = await open()
    const job = personalizer.generate({
      ...drawing({ model: edges, image: grey(0, 64, 32), start: 0.5, end: 0.55 }),
      steps: 10,
    })
    await job
    expect(job.warnings).toEqual([
      expect.stringContaining('takes part in none of the 10 steps'),
      expect.stringContaining('is 64 x 32: it is stretched to 128 x 128'),
    ])
    await personalizer.close()
  })
})

type Bad = () => GenerateOptions

describe('what is refused, before anything is drawn', () => {
  const one = (change: object = {}) => drawing({ model: edges, image: grey(0), ...change })
  const net = (name: string, change: object = {}, config: Record<string, unknown> = {}) =>
    one({ model: writeControl(join(folder, name), controlSpecFor(mini.spec, change), { config }) })
  const levels = () => mini.spec.unet.levels

  test.each<[string, string, Bad]>([
    ['a net alone, not in a list', 'OPTION_INVALID', () => ({ ...one(), control: one().control![0] as never })],
    ['a net without a picture', 'OPTION_INVALID', () => drawing({ model: edges } as never)],
    ['a misspelt option', 'OPTION_UNKNOWN', () => one({ wieght: 1 })],
    ['a scale that is no number', 'OPTION_INVALID', () => one({ scale: Number.NaN })],
    ['a scale beyond all', 'OPTION_INVALID', () => one({ scale: Number.POSITIVE_INFINITY })],
    ['a start below 0', 'OPTION_INVALID', () => one({ start: -0.1 })],
    ['an end above 1', 'OPTION_INVALID', () => one({ end: 30 })],
    ['a start behind the end', 'OPTION_INVALID', () => one({ start: 0.6, end: 0.4 })],
    ['a start at the end', 'OPTION_INVALID', () => one({ start: 0.5, end: 0.5 })],
    ['nine nets', 'OPTION_INVALID', () => drawing(...new Array(9).fill(one().control![0]))],
    ['a picture that is not there', 'IMAGE_NOT_FOUND', () => one({ image: join(folder, 'a.png') })],
    ['no such net', 'MODEL_NOT_FOUND', () => one({ model: join(folder, 'nowhere') })],
    ['a folder of something else', 'MODEL_FILE_MISSING', () => one({ model: folder })],
    [
      'a net for wider features',
      'CONTROL_MODEL',
      () => net('wide', { levels: levels().map((one) => ({ ...one, channels: 2 * one.channels })) }),
    ],
    ['a net with fewer levels', 'CONTROL_MODEL', () => net('shallow', { levels: levels().slice(1) })],
    [
      'a net with more layers',
      'CONTROL_MODEL',
      () => net('long', { levels: levels().map((one) => ({ ...one, layers: 2 })) }),
    ],
    ['a net for other text states', 'CONTROL_MODEL', () => net('text', { crossAttentionDim: 768 })],
    ['a net for other latents', 'CONTROL_MODEL', () => net('latents', { inChannels: 16 })],
    [
      'a net for pictures of another size',
      'CONTROL_MODEL',
      () => net('size', {}, { conditioning_embedding_out_channels: [4, 8] }),
    ],
    ['a net for pictures of one channel', 'CONTROL_MODEL', () => net('grey', {}, { conditioning_channels: 1 })],
    ['a union of nets', 'MODEL_UNSUPPORTED', () => net('union', {}, { _class_name: 'ControlNetUnionModel' })],
    ['residuals pooled', 'MODEL_UNSUPPORTED', () => net('pooled', {}, { global_pool_conditions: true })],
    ['pictures in BGR', 'MODEL_UNSUPPORTED', () => net('bgr', {}, { controlnet_conditioning_channel_order: 'bgr' })],
    ['a width of 0', 'MODEL_CONFIG', () => net('zero', {}, { conditioning_embedding_out_channels: [0, 1, 2, 3] })],
    ['no widths', 'MODEL_CONFIG', () => net('none', {}, { conditioning_embedding_out_channels: [] })],
    [
      'weights of another config',
      'MODEL_TENSOR_SHAPE',
      () => net('other', {}, { conditioning_embedding_out_channels: [5, 8, 12, 16] }),
    ],
    ['text as a net', 'TENSOR_HEADER', () => one({ model: written('a.safetensors', 'not a net, for it is a text') })],
    ['a picture as a net', 'TENSOR_HEADER', () => one({ model: PHOTO })],
    [
      'a U-Net as a net',
      'MODEL_UNSUPPORTED',
      () => one({ model: join(mini.path, 'unet', 'diffusion_pytorch_model.safetensors') }),
    ],
    ['a whole model as a net', 'MODEL_FILE_MISSING', () => one({ model: mini.path })],
    ['a U-Net’s folder as a net', 'MODEL_UNSUPPORTED', () => one({ model: join(mini.path, 'unet') })],
    ['text as a pickle', 'FILE_PICKLE_DAMAGED', () => one({ model: written('a.pth', 'not a pickle') })],
  ])('%s: SWAP_%s', async (_, code, options) => {
    const personalizer = await open()
    const error = await personalizer.generate(options()).catch((e: unknown) => e)
    expect(error).toBeInstanceOf(SwapError)
    expect(error).toMatchObject({ code: `SWAP_${code}` })
    expect(engine().attaches).toEqual([])
    expect(engine().generates).toEqual([])
    await personalizer.close()
  })

  function written(name: string, content: string): string {
    writeFileSync(join(folder, name), content)
    return join(folder, name)
  }
})
