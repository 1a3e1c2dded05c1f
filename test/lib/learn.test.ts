import { access } from 'node:fs/promises'
import { describe, expect, test } from 'vitest'
import { SwapError } from '../../lib/errors.ts'
import { Subject } from '../../lib/subject.ts'
import { learnResult, nativeError, PROGRESS } from './fake_binding.ts'
import { binding, engine, mini, open, PHOTO, until, useFakeBinding, WIDTH } from './fixture.ts'

useFakeBinding()

describe('learn', () => {
  test("the request: the photo at the model's size, the class in its templates, the model's defaults", async () => {
    const personalizer = await open()
    binding.onLearn = (call) => call.resolve(learnResult(call.request, WIDTH))
    await personalizer.learn({ image: PHOTO, class: 'person' })
    const { request } = engine().learns[0]!
    expect(request).toMatchObject({
      classTokens: 1,
      steps: 500,
      batch: 4,
      learningRate: 0.02,
      seed: 0,
      stages: 5,
      split: true,
      parametrization: 'direct',
      attentionWeight: 0.00001,
      attentionLevels: [0, 1],
      resume: undefined,
      checkpointEvery: 0,
    })
    expect(request.image).toMatchObject({ width: 128, height: 128 })
    expect(request.image.data).toHaveLength(128 * 128 * 3)
    expect(request.mask).toHaveLength(0)
    const [tokenizer] = mini.tokenizers
    const [person] = tokenizer!.tokens('person')
    expect(request.templates).toHaveLength(5)
    for (const { ids, position } of request.templates) expect(ids[0]?.[position]).toBe(person)
    await personalizer.close()
  })

  test('the request: what was asked for', async () => {
    const personalizer = await open()
    binding.onLearn = (call) => call.resolve(learnResult(call.request, WIDTH))
    const white = { data: new Uint8Array(64 * 64 * 3).fill(255), width: 64, height: 64 }
    const job = personalizer.learn({
      image: white,
      name: 'box',
      class: 'dog',
      steps: 7,
      learningRate: 0.25,
      seed: 9,
      batch: 2,
      stages: 3,
      attention: { weight: 0.5, levels: [1, 0, 1] },
      conditioning: 'shared',
      parametrization: 'direct',
      mask: white,
      templates: ['a {} at sea', '{}'],
    })
    const subject = await job
    const { request } = engine().learns[0]!
    expect(request).toMatchObject({
      steps: 7,
      learningRate: 0.25,
      seed: 9,
      batch: 2,
      stages: 3,
      split: false,
      parametrization: 'direct',
      attentionWeight: 0.5,
      attentionLevels: [0, 1],
    })
    expect([...request.mask]).toEqual(new Array(16 * 16).fill(1))
    expect(request.templates.map(({ position }) => position)).toEqual([2, 1])
    expect(job.warnings).toEqual([expect.stringContaining('enlarged')])
    expect(subject.metadata).toEqual({
      model: 'mini',
      fingerprint: mini.fingerprint,
      template: 'a {} at sea',
      steps: 7,
      learningRate: 0.25,
      seed: 9,
      attentionWeight: 0.5,
      conditioning: 'shared',
    })
    await personalizer.close()
  })

  test('the subject has what the engine learnt, and survives its file', async () => {
    const personalizer = await open()
    binding.onLearn = (call) => call.resolve(learnResult(call.request, WIDTH))
    const alice = await personalizer.learn({ image: PHOTO, name: 'alice', class: 'person', stages: 2 })
    const again = await Subject.load(alice.toBuffer())
    expect(again).toMatchObject({ name: 'alice', classWord: 'person', stages: 2, tokens: 1, widths: [WIDTH] })
    expect(new Set(again.vectors.k[0])).toEqual(new Set([1]))
    expect(new Set(again.vectors.v[0])).toEqual(new Set([2]))
    await personalizer.close()
  })

  test('attention weight 0 and all levels', async () => {
    const personalizer = await open()
    binding.onLearn = (call) => call.resolve(learnResult(call.request, WIDTH))
    await personalizer.learn({ image: PHOTO, class: 'person', attention: { weight: 0, levels: 'all' } })
    expect(engine().learns[0]?.request).toMatchObject({ attentionWeight: 0, attentionLevels: [] })
    await personalizer.close()
  })

  test('steps become events; the time left is estimated where the engine does not', async () => {
    const personalizer = await open()
    binding.onLearn = (call) => {
      call.emit({ ...PROGRESS, phase: 'prepare', done: 0, total: 1 })
      call.step(1, 3)
      call.step(2, 3, { secondsLeft: 4.5 })
      call.step(3, 3)
      call.resolve(learnResult(call.request, WIDTH))
    }
    const job = personalizer.learn({ image: PHOTO, class: 'person', steps: 3 })
    const events = []
    for await (const event of job) events.push(event)
    const numbers = { type: 'step', steps: 3, loss: 0.5, reconstruction: 0.4, attention: 100, stage: 2 }
    expect(events).toMatchObject([
      { ...numbers, step: 1 },
      { ...numbers, step: 2, secondsLeft: 4.5 },
      { ...numbers, step: 3, secondsLeft: 0 },
    ])
    expect(events[0]?.secondsLeft).toBeGreaterThan(0)
    expect((await job).classWord).toBe('person')
    await personalizer.close()
  })

  test.each([
    [{ image: PHOTO, class: 'person', steps: 0 }, 'SWAP_OPTION_INVALID'],
    [{ image: PHOTO, class: 'person', step: 1 }, 'SWAP_OPTION_UNKNOWN'],
    [{ image: PHOTO, class: 'person', attention: { levels: [7] } }, 'SWAP_OPTION_INVALID'],
    [{ image: PHOTO, class: '§§§§§§' }, 'SWAP_PROMPT_UNKNOWN_CLASS'],
    [{ image: 'no.png', class: 'person' }, 'SWAP_IMAGE_NOT_FOUND'],
    [{ image: new Uint8Array(9), class: 'person' }, /^SWAP_IMAGE_/],
    [{ image: PHOTO, class: 'person', resume: 'no.resume' }, 'SWAP_FILE_NOT_FOUND'],
    [{ image: PHOTO, class: 'person', resume: new Uint8Array(9) }, 'SWAP_RESUME_INVALID'],
    [{ image: PHOTO, class: 'person', checkpoint: PHOTO }, 'SWAP_FILE_EXISTS'],
    [{ image: PHOTO, class: 'person', checkpoint: '/no/such/folder/a' }, 'SWAP_FILE_NOT_FOUND'],
  ])('refuses %j before the engine is asked', async (options, code) => {
    const personalizer = await open()
    const error = await personalizer.learn(options).catch((e: unknown) => e)
    expect(error).toBeInstanceOf(SwapError)
    expect((error as SwapError).code).toMatch(code)
    expect(engine().learns).toEqual([])
    await access(PHOTO)
    await personalizer.close()
  })

  test('a native error keeps its code and gains the stack of the call', async () => {
    const personalizer = await open()
    binding.onLearn = (call) => call.reject(nativeError('SWAP_NUMERIC_NAN', 'NaN at step 3'))
    const error = await personalizer.learn({ image: PHOTO, class: 'person' }).catch((e: unknown) => e)
    expect(error).toMatchObject({ name: 'SwapError', code: 'SWAP_NUMERIC_NAN', message: 'NaN at step 3' })
    expect((error as Error).stack).toContain('learn.test.ts')
    await personalizer.close()
  })

  test('cancelling reaches the engine and rejects with the reason', async () => {
    const personalizer = await open()
    const controller = new AbortController()
    const job = personalizer.learn({ image: PHOTO, class: 'person' }, { signal: controller.signal })
    await until(() => engine().learns.length)
    controller.abort('because')
    await expect(job).rejects.toBe('because')
    expect(engine().learns[0]?.cancelled).toBe(true)
    binding.onLearn = (call) => call.resolve(learnResult(call.request, WIDTH))
    expect((await personalizer.learn({ image: PHOTO, class: 'person' })).name).toBe('subject')
    await personalizer.close()
  })

  test('cancelled while the photo is read: the engine is never asked', async () => {
    const personalizer = await open()
    const job = personalizer.learn({ image: PHOTO, class: 'person' })
    job.cancel('early')
    await expect(job).rejects.toBe('early')
    expect(engine().learns).toEqual([])
    await personalizer.close()
  })
})
