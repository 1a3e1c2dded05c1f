/** The package's face over the built addon and the fake engine: all but the mathematics. */
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { DisposedError, Personalizer, Subject, SwapError } from '../../lib/index.ts'
import { packageRoot } from '../../lib/paths.ts'

const BUILD = join(packageRoot(), 'build', 'Release')
const PHOTO = join(packageRoot(), 'models', 'mini', 'people', '0.png')
/** Seeds that ask the fake engine for a behaviour; see test/fake_engine/fake_engine.cpp. */
const ENDLESS = 9001
const NAN = 9002
const NO_MEMORY = 9003
const FLOOD = 9004

const photo = { image: PHOTO, class: 'person' }

let folder: string
let personalizer: Personalizer

beforeAll(() => {
  const engine = join(BUILD, 'libswap_engine_fake.so')
  if (!existsSync(engine)) throw new Error(`${engine} is not built: npm run build`)
})
beforeEach(async () => {
  vi.stubEnv('SWAP_NATIVE_BINDING', join(BUILD, 'swap_native.node'))
  vi.stubEnv('SWAP_ENGINE_LIBRARY', join(BUILD, 'libswap_engine_fake.so'))
  folder = await mkdtemp(join(tmpdir(), 'swap-engine-'))
  personalizer = await Personalizer.open()
})
afterEach(async () => {
  await personalizer.close()
  vi.unstubAllEnvs()
  await rm(folder, { recursive: true, force: true })
})

/** Resolves with the job's first event. */
async function first<E>(job: AsyncIterable<E>): Promise<E> {
  for await (const event of job) return event
  throw new Error('the job has no events')
}

test('from a photo to pictures', async () => {
  const job = personalizer.learn({ ...photo, name: 'alice', steps: 5, stages: 2 })
  const steps = []
  for await (const { step, steps: of, stage, loss } of job) steps.push([step, of, stage >= 0, loss > 0])
  expect(steps).toEqual([1, 2, 3, 4, 5].map((step) => [step, 5, true, true]))
  const path = join(folder, 'alice.safetensors')
  await (await job).save(path)
  const alice = await Subject.load(path)
  expect(alice).toMatchObject({ name: 'alice', classWord: 'person', stages: 2, widths: [192] })

  const options = { prompt: 'a photo of <alice>', subjects: [alice], steps: 3, seed: 1 }
  const images = await personalizer.generate({ ...options, count: 2 })
  expect(images.map(({ width, height, seed, data }) => [width, height, seed, data.length])).toEqual(
    [1, 2].map((seed) => [128, 128, seed, 128 * 128 * 3]),
  )
  const [alone] = await personalizer.generate({ ...options, seed: 2 })
  expect(alone?.data).toEqual(images[1]?.data)
  await images[0]?.save(join(folder, 'alice.png'))
  expect(await readdir(folder)).toEqual(['alice.png', 'alice.safetensors'])
})

describe('errors of the engine', () => {
  test('are SwapErrors with the stack of the call', async () => {
    async function learnsBadly() {
      await personalizer.learn({ ...photo, steps: 4, seed: NAN })
    }
    const error = await learnsBadly().catch((e: unknown) => e)
    expect(error).toBeInstanceOf(SwapError)
    expect(error).toMatchObject({ code: 'SWAP_NUMERIC_NAN' })
    expect((error as Error).stack).toContain('learnsBadly')
    await expect(personalizer.generate({ prompt: 'x', seed: NO_MEMORY })).rejects.toMatchObject({
      code: 'SWAP_MEMORY_DEVICE',
    })
    expect(await personalizer.generate({ prompt: 'x', steps: 1 })).toHaveLength(1)
  })

  test('while it loads', async () => {
    await expect(Personalizer.open({ device: 'cuda:9' })).rejects.toMatchObject({ code: 'SWAP_MEMORY_DEVICE' })
  })
})

describe('cancelling', () => {
  test.each([
    ['learning', () => personalizer.learn({ ...photo, seed: ENDLESS })],
    ['generating', () => personalizer.generate({ prompt: 'x', seed: ENDLESS })],
  ])('while %s: the very reason, and the next job works', async (_, start) => {
    const job = start()
    await first(job)
    const reason = { why: 'enough' }
    job.cancel(reason)
    await expect(job).rejects.toBe(reason)
    expect((await personalizer.learn({ ...photo, steps: 1 })).name).toBe('subject')
  })

  test('while loading', async () => {
    const reason = new Error('enough')
    const controller = new AbortController()
    const { signal } = controller
    const opening = Personalizer.open({ device: 'cuda', onProgress: () => controller.abort(reason) }, { signal })
    await expect(opening).rejects.toBe(reason)
  })

  test('a job that still waits, at once', async () => {
    const running = personalizer.generate({ prompt: 'x', seed: ENDLESS })
    await first(running)
    const waiting = personalizer.generate({ prompt: 'x' })
    waiting.cancel('never mind')
    await expect(waiting).rejects.toBe('never mind')
    running.cancel('now')
    await expect(running).rejects.toBe('now')
  })
})

test('a generation that is asked for while learning goes first', async () => {
  const learning = personalizer.learn({ ...photo, seed: ENDLESS })
  await first(learning)
  expect(await personalizer.generate({ prompt: 'a dog', steps: 1 })).toHaveLength(1)
  learning.cancel('done')
  await expect(learning).rejects.toBe('done')
})

test('interrupted at any step and resumed: the same bits', async () => {
  const options = { ...photo, steps: 6, seed: 3, stages: 2 }
  const whole = await personalizer.learn(options)
  const checkpoint = join(folder, 'a.resume')
  for (const at of [1, 3, 5]) {
    const job = personalizer.learn({ ...options, checkpoint: { path: checkpoint, every: 1 } })
    for await (const { step } of job) {
      if (step !== at) continue
      job.cancel('pause')
      break
    }
    await expect(job).rejects.toBe('pause')
    const resumed = await personalizer.learn({ ...photo, resume: checkpoint, checkpoint })
    expect(resumed.toBuffer().equals(whole.toBuffer())).toBe(true)
    expect(await readdir(folder)).toEqual([])
  }
})

test('a flood of events does not stall the job, nor fill the memory', async () => {
  const job = personalizer.learn({ ...photo, steps: 2, seed: FLOOD })
  await first(job)
  expect((await job).name).toBe('subject')
  let seen = 0
  for await (const _ of job) seen++
  expect(seen).toBeGreaterThan(1)
  expect(seen).toBeLessThanOrEqual(8192)
})

describe('life and death', () => {
  test('closing ends what runs', async () => {
    const learning = personalizer.learn({ ...photo, seed: ENDLESS })
    await first(learning)
    const waiting = personalizer.generate({ prompt: 'x', seed: ENDLESS })
    await personalizer.close()
    await expect(learning).rejects.toBeInstanceOf(DisposedError)
    await expect(waiting).rejects.toBeInstanceOf(DisposedError)
  })

  test('several at once, opened and closed again and again', async () => {
    for (let round = 0; round < 10; round++) {
      const pair = await Promise.all([Personalizer.open(), Personalizer.open()])
      const [a, b] = await Promise.all(pair.map((one) => one.generate({ prompt: 'a dog', steps: 1 })))
      expect(a?.[0]?.data).toEqual(b?.[0]?.data)
      await Promise.all(pair.map((one) => one.close()))
    }
  })
})
