import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { DisposedError } from '../../lib/errors.ts'
import type { TrainerState } from '../../lib/native.ts'
import type { LearnOptions } from '../../lib/options.ts'
import type { Personalizer } from '../../lib/personalizer.ts'
import { readResume } from '../../lib/resume.ts'
import { ENGINE_INFO, learnResult, nativeError, trainerState } from './fake_binding.ts'
import { binding, engine, open, PEOPLE, PHOTO, until, useFakeBinding, WIDTH } from './fixture.ts'

useFakeBinding()

let folder: string
let path: string
let personalizer: Personalizer

const learns = () => engine().learns
const learn = (options: Partial<LearnOptions> = {}) => personalizer.learn({ image: PHOTO, class: 'person', ...options })

/** A learning that reached the engine. */
async function started(options: Partial<LearnOptions>) {
  const before = learns().length
  const job = learn(options)
  await until(() => learns().length > before)
  return { job, call: learns().at(-1)! }
}

/** A learning that was cancelled at a step, and left its file. */
async function interrupted(options: Partial<LearnOptions>, state: TrainerState) {
  const { job, call } = await started({ ...options, checkpoint: path })
  call.state = state
  job.cancel('stop')
  await expect(job).rejects.toBe('stop')
}

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'swap-checkpoint-'))
  path = join(folder, 'alice.resume')
  personalizer = await open()
})
afterEach(async () => {
  await personalizer.close()
  await rm(folder, { recursive: true, force: true })
})

describe('a resume file is left', () => {
  test('every so many steps, and removed when all ends well', async () => {
    const { job, call } = await started({ checkpoint: { path, every: 10 } })
    expect(call.request.checkpointEvery).toBe(10)
    call.emit({ type: 'checkpoint', state: trainerState(10) })
    await until(async () => (await readResume(path)).state.step === 10)
    call.emit({ type: 'checkpoint', state: trainerState(20) })
    call.emit({ type: 'checkpoint', state: trainerState(30) })
    call.resolve(learnResult(call.request, WIDTH))
    await job
    expect(await readdir(folder)).toEqual([])
  })

  test('every 50 steps unless told otherwise', async () => {
    const { call, job } = await started({ checkpoint: path })
    expect(call.request.checkpointEvery).toBe(50)
    call.resolve(learnResult(call.request, WIDTH))
    await job
  })

  test('when it is cancelled, with where it was', async () => {
    await interrupted({ steps: 40, seed: 5 }, trainerState(17))
    const { state, settings } = await readResume(path)
    expect(state).toEqual(trainerState(17))
    expect(settings).toMatchObject({ steps: 40, seed: 5, class: 'person', name: 'subject' })
    expect(await readdir(folder)).toEqual(['alice.resume'])
  })

  test('when it is cancelled with the last step', async () => {
    const { job, call } = await started({ checkpoint: path, steps: 40 })
    call.resolve(learnResult(call.request, WIDTH))
    job.cancel('late')
    await expect(job).rejects.toBe('late')
    expect((await readResume(path)).state.step).toBe(40)
  })

  test('when the model is closed', async () => {
    const { job, call } = await started({ checkpoint: path })
    call.state = trainerState(3)
    await personalizer.close()
    expect((await readResume(path)).state.step).toBe(3)
    await expect(job).rejects.toBeInstanceOf(DisposedError)
  })

  test('when it fails, and the error does not keep the state in memory', async () => {
    const { job, call } = await started({ checkpoint: path })
    const failure = nativeError('SWAP_MEMORY_FULL', 'no memory', { state: trainerState(9) })
    call.reject(failure)
    await expect(job).rejects.toMatchObject({ code: 'SWAP_MEMORY_FULL', cause: failure })
    expect((await readResume(path)).state.step).toBe(9)
    expect(failure).not.toHaveProperty('state')
  })

  test('not where nothing was asked for', async () => {
    const { job, call } = await started({})
    call.state = trainerState(9)
    job.cancel('stop')
    await expect(job).rejects.toBe('stop')
    expect(await readdir(folder)).toEqual([])
  })

  test('one that cannot be written is a warning, and the learning goes on', async () => {
    const { job, call } = await started({ checkpoint: path })
    await mkdir(path)
    call.emit({ type: 'checkpoint', state: trainerState(50) })
    await until(() => job.warnings.length)
    expect(job.warnings[0]).toContain('no resume file')
    call.resolve(learnResult(call.request, WIDTH))
    expect((await job).name).toBe('subject')
  })
})

describe('going on from it', () => {
  test('the engine gets the state, bit for bit, and all that was asked for before', async () => {
    const asked = {
      name: 'alice',
      steps: 40,
      learningRate: 0.25,
      seed: 5,
      batch: 3,
      stages: 2,
      attention: { weight: 0.125, levels: [1] },
      conditioning: 'shared' as const,
      parametrization: 'direct' as const,
      templates: ['a {}'],
    }
    await interrupted(asked, trainerState(17, 1 / 3))
    const first = learns()[0]!.request
    for (const resume of [path, await readFile(path)]) {
      const { job, call } = await started({ resume, checkpoint: path })
      expect(call.request).toEqual({ ...first, resume: trainerState(17, 1 / 3) })
      call.state = trainerState(17, 1 / 3)
      job.cancel()
      await expect(job).rejects.toMatchObject({ code: 'SWAP_CANCELLED' })
    }
    const { job, call } = await started({ resume: path, steps: 50, name: 'bob' })
    expect(call.request).toEqual({ ...first, steps: 50, resume: trainerState(17, 1 / 3), checkpointEvery: 0 })
    call.resolve(learnResult(call.request, WIDTH))
    expect(await job).toMatchObject({ name: 'bob', metadata: { steps: 50, seed: 5 } })
    expect(await readdir(folder)).toEqual(['alice.resume'])
  })

  test.each<[string, () => Partial<LearnOptions>]>([
    ['image', () => ({ image: join(PEOPLE, '1.png') })],
    ['image', () => ({ crop: { left: 0, top: 0, size: 100 } })],
    ['mask', () => ({ mask: PHOTO })],
    ['class', () => ({ class: 'dog' })],
    ['seed', () => ({ seed: 1 })],
    ['steps', () => ({ steps: 16 })],
    ['attentionWeight', () => ({ attention: { weight: 0 } })],
  ])('another %s: SWAP_RESUME_MISMATCH, before the engine is asked', async (name, change) => {
    await interrupted({}, trainerState(17))
    const job = learn({ resume: path, ...change() })
    await expect(job).rejects.toMatchObject({
      code: 'SWAP_RESUME_MISMATCH',
      message: expect.stringContaining(`${name} (`),
    })
    expect(learns()).toHaveLength(1)
    expect(await readdir(folder)).toEqual(['alice.resume'])
  })

  test('other threads: SWAP_RESUME_MISMATCH', async () => {
    await interrupted({}, trainerState(17))
    binding.onLoad = (call) => call.resolve({ ...ENGINE_INFO, threads: 8 })
    const other = await open()
    const job = other.learn({ image: PHOTO, class: 'person', resume: path })
    await expect(job).rejects.toThrow('threads (2 then, 8 now)')
    await other.close()
  })

  test('settings out of range: SWAP_RESUME_INVALID', async () => {
    await interrupted({ stages: 3 }, trainerState(17))
    const bytes = await readFile(path)
    const at = bytes.indexOf('\\"stages\\":3')
    bytes.write('0', at + 11)
    await writeFile(path, bytes)
    const job = learn({ resume: path })
    await expect(job).rejects.toMatchObject({ code: 'SWAP_RESUME_INVALID', message: expect.stringContaining('stages') })
  })
})
