/** Jobs and engines on the real engine: interrupted, resumed, cancelled, side by side, thrown away. */
import { execFile } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  DisposedError,
  type GeneratedImage,
  type Job,
  type LearnEvent,
  Personalizer,
  type Subject,
} from '../../lib/index.ts'
import { PHOTO, temporary } from './kit.ts'

let personalizer: Personalizer
let picture: GeneratedImage

const open = (options: object = {}) => Personalizer.open({ dtype: 'float32', ...options })
const drawing = (options: object = {}) => ({
  prompt: 'a person at the beach',
  steps: 2,
  width: 32,
  height: 32,
  ...options,
})
const learning = (options: object = {}) => ({ image: PHOTO, class: 'person', batch: 1, stages: 2, seed: 3, ...options })
const endless = { learn: learning({ steps: 100_000 }), generate: drawing({ steps: 900 }) }

beforeAll(async () => {
  personalizer = await open()
  ;[picture] = (await personalizer.generate(drawing())) as [GeneratedImage]
})
afterAll(() => personalizer.close())

async function begun<E>(job: AsyncIterable<E>): Promise<void> {
  for await (const _ of job) return
}

/** The personalizer is as good as new. */
async function stillWorks(): Promise<void> {
  const [again] = await personalizer.generate(drawing())
  expect(again?.data).toEqual(picture.data)
}

describe('a learning that is interrupted and resumed', () => {
  const STEPS = 6
  let whole: Buffer
  beforeAll(async () => {
    whole = (await personalizer.learn(learning({ steps: STEPS }))).toBuffer()
  })

  /** Learns until a step is done, then aborts. */
  async function interrupt(at: number, path: string, meanwhile: (job: Job<Subject, LearnEvent>) => unknown = () => {}) {
    const controller = new AbortController()
    const reason = { step: at }
    const job = personalizer.learn(learning({ steps: STEPS, checkpoint: path }), { signal: controller.signal })
    for await (const { step } of job) {
      await meanwhile(job)
      if (step < at) continue
      controller.abort(reason)
      break
    }
    await expect(job).rejects.toBe(reason)
  }
  const resume = (path: string) => personalizer.learn(learning({ resume: path, checkpoint: path }))

  test.each([1, 2, 3, 5])('after step %i: the same bits', async (at) => {
    const folder = temporary()
    const path = join(folder, 'a.resume')
    await interrupt(at, path)
    expect(readdirSync(folder)).toEqual(['a.resume'])
    const resumed = resume(path)
    const steps: number[] = []
    for await (const { step } of resumed) steps.push(step)
    expect(steps.at(-1) ?? STEPS).toBe(STEPS)
    expect(steps[0] ?? STEPS).toBeGreaterThan(at === STEPS - 1 ? 0 : at)
    expect((await resumed).toBuffer().equals(whole)).toBe(true)
    expect(readdirSync(folder)).toEqual([])
  })

  test('again and again, with pictures drawn in between: the same bits', async () => {
    const path = join(temporary(), 'a.resume')
    const draw = () => personalizer.generate(drawing({ steps: 1 }))
    await interrupt(1, path, draw)
    const second = resume(path)
    await begun(second)
    await draw()
    second.cancel('once more')
    await expect(second).rejects.toBe('once more')
    expect((await resume(path)).toBuffer().equals(whole)).toBe(true)
  })

  test('pictures drawn while it learns change nothing', async () => {
    const job = personalizer.learn(learning({ steps: STEPS }))
    await begun(job)
    await stillWorks()
    expect((await job).toBuffer().equals(whole)).toBe(true)
  })
})

test('a seed makes the same picture alone and in a batch', async () => {
  const options = drawing({ steps: 4, width: 64, height: 64, scheduler: 'euler-a' })
  const together = await personalizer.generate({ ...options, seed: 5, count: 3, batch: 3 })
  for (const { seed, data } of together) {
    const [alone] = await personalizer.generate({ ...options, seed })
    const off = data.filter((value, index) => Math.abs(value - alone!.data[index]!) > 1)
    expect(off.length).toBeLessThanOrEqual(data.length / 1000)
  }
  expect(new Set(together.map(({ data }) => Buffer.from(data).toString('base64'))).size).toBe(3)
})

describe('cancelling', () => {
  test.each([
    ['learning', (signal: AbortSignal) => personalizer.learn(endless.learn, { signal })],
    ['generating', (signal: AbortSignal) => personalizer.generate(endless.generate, { signal })],
  ])('%s: the very reason, and the next job works', async (_, start) => {
    const controller = new AbortController()
    const job = start(controller.signal)
    await begun<unknown>(job)
    const reason = { why: 'enough' }
    controller.abort(reason)
    await expect(job).rejects.toBe(reason)
    await stillWorks()
  })

  test('loading: the very reason, and the next opening works', async () => {
    const controller = new AbortController()
    const reason = new Error('enough')
    const { signal } = controller
    const loading = Personalizer.open({ dtype: 'float32', onProgress: () => controller.abort(reason) }, { signal })
    await expect(loading).rejects.toBe(reason)
    const other = await open()
    const [again] = await other.generate(drawing())
    await other.close()
    expect(again?.data).toEqual(picture.data)
  })

  test('before it begins: nothing is done', async () => {
    const reason = { why: 'never mind' }
    const signal = AbortSignal.abort(reason)
    await expect(personalizer.learn(endless.learn, { signal })).rejects.toBe(reason)
    await expect(personalizer.generate(endless.generate, { signal })).rejects.toBe(reason)
    await expect(Personalizer.open({}, { signal })).rejects.toBe(reason)
  })

  test('closing: what runs and what waits', async () => {
    const other = await open()
    const running = other.learn(endless.learn)
    await begun(running)
    const waiting = other.learn(endless.learn)
    await other.close()
    await expect(running).rejects.toBeInstanceOf(DisposedError)
    await expect(waiting).rejects.toBeInstanceOf(DisposedError)
  })
})

test('a picture asked for while learning comes before the next step, and before a learning that waits', async () => {
  const order: string[] = []
  const first = personalizer.learn(endless.learn)
  await begun(first)
  const second = personalizer.learn(learning({ steps: 1 }))
  const drawn = personalizer.generate(drawing({ steps: 1 }))
  const note = (name: string) => () => void order.push(name)
  const all = [first.then(note('first'), note('first')), second.then(note('second')), drawn.then(note('drawn'))]
  await drawn
  first.cancel()
  await Promise.all(all)
  expect(order).toEqual(['drawn', 'first', 'second'])
})

test('a job is awaited, iterated, both, and by many', async () => {
  const job = personalizer.learn(learning({ steps: 3 }))
  const steps = async () => {
    const seen: number[] = []
    for await (const { step } of job) seen.push(step)
    return seen
  }
  const [one, other, subject, late] = await Promise.all([steps(), steps(), job, job.then(steps)])
  for (const seen of [one, other, late]) expect(seen).toEqual([1, 2, 3])
  expect(await job).toBe(subject)
  expect((await personalizer.generate(drawing({ count: 2 }))).map(({ seed }) => seed)).toEqual([0, 1])
})

test('two engines at once: each its own subject, and one outlives the other', async () => {
  const other = await open()
  const both = [personalizer, other]
  const subjects = await Promise.all(both.map((one) => one.learn(learning({ steps: 2, name: 'alice' }))))
  expect(subjects[0]?.toBuffer().equals(subjects[1]!.toBuffer())).toBe(true)
  const options = drawing({ prompt: 'a photo of <alice>', subjects: [subjects[0]!] })
  const [[a], [b]] = (await Promise.all(both.map((one) => one.generate(options)))) as [
    GeneratedImage[],
    GeneratedImage[],
  ]
  expect(a?.data).toEqual(b?.data)
  const running = other.learn(endless.learn)
  await begun(running)
  const here = personalizer.generate(drawing())
  await other.close()
  expect((await here)[0]?.data).toEqual(picture.data)
  await expect(running).rejects.toBeInstanceOf(DisposedError)
})

describe('in a process of its own', () => {
  async function live<T = number>(...words: string[]): Promise<Record<string, T>> {
    const script = fileURLToPath(new URL('lives.mjs', import.meta.url))
    const { stdout } = await promisify(execFile)(process.execPath, [script, ...words])
    return JSON.parse(stdout) as Record<string, T>
  }

  test.each(['learning', 'generating', 'loading'])('a worker thread terminated while %s', async (kind) => {
    expect(await live('terminate', kind)).toEqual({ code: 1, images: 1 })
  })

  test('an engine that asked for other threads leaves the default as it was', async () => {
    const { before, other, after } = await live('threads')
    expect(other).toBe(before! + 1)
    expect(after).toBe(before)
  })

  test('one row gives the same numbers with helpers and without', async ({ skip }) => {
    const alone = await live<string>('numbers', '1')
    // Products that are LibTorch's differ by rounding with its threads.
    skip(alone.dtype === 'float32', 'this processor has no kernel for products')
    expect(Object.keys(alone)).toHaveLength(6)
    expect(await live<string>('numbers', '2')).toEqual(alone)
  })

  test.each(['engines', 'cancelled'])('20 times: %s: memory comes back', async (what) => {
    const megabytes = await live(what)
    // A model takes 64 MB and a learning step about as much: one lost at each round would be over 900 MB.
    expect(megabytes[20]! - megabytes[5]!).toBeLessThan(60)
  })
})
