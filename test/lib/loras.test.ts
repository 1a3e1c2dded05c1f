/** LoRA of an opened model: what the engine is asked for, and in which order. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { DisposedError } from '../../lib/errors.ts'
import { Subject } from '../../lib/subject.ts'
import { LAYER, loraParts, pack } from '../limits/adapters.ts'
import { ENGINE_INFO, generateResult, learnResult, nativeError, PROGRESS } from './fake_binding.ts'
import { binding, engine, mini, open, PHOTO, until, useFakeBinding, WIDTH } from './fixture.ts'

useFakeBinding()

const scratch = mkdtempSync(join(tmpdir(), 'swap-loras-'))
const style = join(scratch, 'style.safetensors')
beforeAll(() => writeFileSync(style, pack(loraParts())))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

const TARGETS = [
  'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight',
  'text_encoder.0.encoder.layers.0.mlp.fc1.weight',
]
const drawing = { prompt: 'a person', steps: 1 }

describe('open', () => {
  test('hands the factors over with the weights, and their scale: alpha over rank, times the own', async () => {
    const personalizer = await open({ loras: [{ file: style, scale: 0.5 }, style] })
    const { tensors, deltas } = engine().loads[0]!.request
    const names = tensors.slice(mini.tensors.length).map(({ name }) => name)
    expect(tensors.slice(0, mini.tensors.length)).toEqual(mini.tensors)
    const alpha = new Float32Array(loraParts()[`${LAYER}.alpha`]!.bytes.buffer)[0]!
    expect(deltas).toEqual(
      [0.5, 1].flatMap((scale, index) =>
        TARGETS.map((target, k) => ({
          target,
          down: `lora.${index}.${target}.down`,
          up: `lora.${index}.${target}.up`,
          middle: '',
          scale: k === 0 ? (alpha / 2) * scale : scale,
        })),
      ),
    )
    expect(names).toEqual(deltas!.flatMap(({ down, up }) => [down, up]))
    expect(personalizer.info.loras).toEqual([
      { file: style, scale: 0.5, weights: 2 },
      { file: style, scale: 1, weights: 2 },
    ])
    await personalizer.close()
  })

  test('without LoRA asks for none', async () => {
    await (await open()).close()
    expect(engine().loads[0]!.request.deltas).toBeUndefined()
  })
})

describe('setLoras', () => {
  test('reads the weights again, says how far it is, and an empty list takes all away', async () => {
    const personalizer = await open()
    const seen: number[] = []
    binding.onLoad = (call) => {
      call.emit({ ...PROGRESS, phase: 'load', done: 5, total: 10 })
      call.resolve(ENGINE_INFO)
    }
    const job = personalizer.setLoras([style])
    for await (const { done } of job) seen.push(done)
    expect(await job).toEqual([{ file: style, scale: 1, weights: 2 }])
    expect(seen).toEqual([5])
    expect(personalizer.info.loras).toHaveLength(1)
    await personalizer.setLoras([])
    expect(engine().loads.map(({ request }) => request.deltas?.length ?? 0)).toEqual([0, 2, 0])
    expect(personalizer.info.loras).toEqual([])
    await personalizer.close()
  })

  test('waits for the jobs before it; the jobs after it wait', async () => {
    const personalizer = await open()
    const before = personalizer.generate(drawing)
    await until(() => engine().generates.length === 1)
    const change = personalizer.setLoras([style])
    const after = personalizer.generate(drawing)
    await new Promise((resolve) => setImmediate(resolve))
    expect(engine().loads).toHaveLength(1)
    let finish = (): void => {}
    binding.onLoad = (call) => {
      finish = () => call.resolve(ENGINE_INFO)
    }
    engine().generates[0]!.resolve(generateResult(engine().generates[0]!.request))
    await before
    await until(() => engine().loads.length === 2)
    expect(engine().generates).toHaveLength(1)
    finish()
    await change
    await until(() => engine().generates.length === 2)
    engine().generates[1]!.resolve(generateResult(engine().generates[1]!.request))
    expect((await after)[0]!.parameters).toMatchObject({ loras: ['style.safetensors:1'] })
    await personalizer.close()
  })

  test('a failure leaves all as it was', async () => {
    const personalizer = await open({ loras: [style] })
    binding.onLoad = (call) =>
      engine().loads.length === 2 ? call.reject(nativeError('SWAP_MODEL_FILE')) : call.resolve(ENGINE_INFO)
    await expect(personalizer.setLoras([])).rejects.toMatchObject({ code: 'SWAP_MODEL_FILE' })
    expect(engine().loads.map(({ request }) => request.deltas?.length ?? 0)).toEqual([2, 0, 2])
    expect(personalizer.info.loras).toHaveLength(1)
    await personalizer.close()
  })

  test('cancelled in the middle, it leaves all as it was', async () => {
    const personalizer = await open()
    const controller = new AbortController()
    binding.onLoad = (call) => {
      if (engine().loads.length === 2) controller.abort(new Error('enough'))
      else call.resolve(ENGINE_INFO)
    }
    await expect(personalizer.setLoras([style], { signal: controller.signal })).rejects.toThrow('enough')
    await until(() => engine().loads.length === 3)
    expect(engine().loads[2]!.request.deltas).toBeUndefined()
    expect(personalizer.info.loras).toEqual([])
    await personalizer.close()
  })

  test('where the weights cannot be had again either, it says so and closes', async () => {
    const personalizer = await open()
    binding.onLoad = (call) => call.reject(nativeError('SWAP_MODEL_FILE', 'gone'))
    const change = personalizer.setLoras([style])
    const after = personalizer.generate(drawing)
    await expect(change).rejects.toMatchObject({ code: 'SWAP_LORA_LOST', cause: { code: 'SWAP_MODEL_FILE' } })
    await expect(after).rejects.toBeInstanceOf(DisposedError)
    await expect(personalizer.generate(drawing)).rejects.toBeInstanceOf(DisposedError)
    expect(engine().closed).toBe(1)
    await personalizer.close()
  })

  test('close() ends it', async () => {
    const personalizer = await open()
    binding.onLoad = () => {}
    const change = personalizer.setLoras([style])
    await until(() => engine().loads.length === 2)
    await personalizer.close()
    await expect(change).rejects.toBeInstanceOf(DisposedError)
  })
})

describe('a subject that was learnt with LoRA', () => {
  test('remembers them, and a generation without them warns', async () => {
    const personalizer = await open({ loras: [{ file: style, scale: 0.5 }] })
    binding.onLearn = (call) => call.resolve(learnResult(call.request, WIDTH))
    binding.onGenerate = (call) => call.resolve(generateResult(call.request))
    const learnt = await personalizer.learn({ image: PHOTO, class: 'person', name: 'alice', steps: 1 })
    expect(learnt.metadata.loras).toBe('style.safetensors:0.5')
    const alice = await Subject.load(learnt.toBuffer())
    const options = { ...drawing, prompt: 'a photo of <alice>', subjects: [alice] }
    const same = personalizer.generate(options)
    await same
    expect(same.warnings).toEqual([])
    await personalizer.setLoras([])
    const without = personalizer.generate(options)
    await without
    expect(without.warnings.join()).toContain('style.safetensors:0.5')
    await personalizer.close()
  })
})
