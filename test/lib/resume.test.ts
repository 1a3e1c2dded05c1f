import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { SwapError } from '../../lib/errors.ts'
import { readSafetensors, writeSafetensors } from '../../lib/model/safetensors.ts'
import {
  checkCheckpointPath,
  checkResume,
  hash,
  type LearnSettings,
  type LearnSurroundings,
  type ResumeFile,
  readResume,
  writeResume,
} from '../../lib/resume.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'swap-resume-'))
})
afterEach(async () => {
  await rm(folder, { recursive: true, force: true })
})

const settings: LearnSettings = {
  name: 'alice',
  class: 'person',
  steps: 600,
  learningRate: 1e-4,
  seed: 3,
  batch: 1,
  stages: 5,
  attentionWeight: 0.003,
  attentionLevels: [1, 2],
  conditioning: 'split',
  parametrization: 'attention',
  templates: ['a photo of a {}', 'ein Foto von {} – "gut"'],
}
const surroundings: LearnSurroundings = {
  image: hash('image'),
  mask: hash(new Float32Array(0)),
  model: hash('model'),
  device: 'cpu',
  dtype: 'float32',
  threads: 2,
  machine: '2.13.0 avx2',
}
const resume: ResumeFile = {
  settings,
  surroundings,
  state: {
    step: 50,
    tensors: [
      { name: 'param.a', shape: [2], data: new Float32Array([1 / 3, -0]) },
      { name: 'adam.m.a', shape: [2, 1], data: new Float32Array([1e-38, 3.4e38]) },
    ],
  },
}

describe('round trip', () => {
  test('keeps every bit', async () => {
    const bytes = writeResume(resume)
    const path = join(folder, 'a.resume')
    await writeFile(path, bytes)
    for (const source of [path, bytes]) {
      const again = await readResume(source)
      expect(again.settings).toEqual(settings)
      expect(again.surroundings).toEqual(surroundings)
      expect(again.state.step).toBe(50)
      const by = (tensors: { name: string; data: Float32Array }[]) =>
        Object.fromEntries(tensors.map(({ name, data }) => [name, Buffer.from(data.buffer).toString('hex')]))
      expect(by(again.state.tensors)).toEqual(by(resume.state.tensors))
    }
  })
})

describe('a file that is none: SWAP_RESUME_INVALID', () => {
  const changed = (change: (strings: Record<string, string>) => void): Uint8Array => {
    const { metadata, tensors } = readSafetensors(writeResume(resume))
    change(metadata)
    return writeSafetensors(tensors, metadata)
  }
  const part = (key: 'settings' | 'surroundings', change: (value: Record<string, unknown>) => void) =>
    changed((strings) => {
      const value = JSON.parse(strings[key]!) as Record<string, unknown>
      change(value)
      strings[key] = JSON.stringify(value)
    })
  test.each<[string, Uint8Array, string]>([
    ['text', Buffer.from('no resume file at all'), 'header'],
    ['cut short', writeResume(resume).subarray(0, -1), 'ends at byte'],
    ['a subject', writeSafetensors([], { format: 'swap-subject' }), 'does not say so'],
    ['a later version', changed((s) => (s.version = '9')), 'version 9'],
    ['no step', changed((s) => delete s.step), 'the step undefined'],
    ['half a step', changed((s) => (s.step = '1.5')), 'the step 1.5'],
    ['a step before the first', changed((s) => (s.step = '-1')), 'the step -1'],
    ['settings that are not JSON', changed((s) => (s.settings = '{')), 'settings are not JSON'],
    ['no settings', changed((s) => delete s.settings), 'settings are not JSON'],
    ['settings that are null', changed((s) => (s.settings = 'null')), 'settings have no name'],
    ['a setting of another kind', part('settings', (s) => (s.stages = '5')), 'no stages'],
    ['a list of another kind', part('settings', (s) => (s.templates = [5])), 'no templates'],
    ['a surrounding that is missing', part('surroundings', (s) => delete s.threads), 'no threads'],
    [
      'NaN',
      writeResume({
        ...resume,
        state: { step: 1, tensors: [{ name: 'p', shape: [1], data: new Float32Array([Number.NaN]) }] },
      }),
      'not finite',
    ],
  ])('%s', async (_, bytes, message) => {
    const error = await readResume(bytes).catch((e: unknown) => e)
    expect(error).toBeInstanceOf(SwapError)
    expect(error).toMatchObject({ code: 'SWAP_RESUME_INVALID', message: expect.stringContaining(message) })
  })

  test('a missing one', async () => {
    await expect(readResume(join(folder, 'no'))).rejects.toMatchObject({ code: 'SWAP_FILE_NOT_FOUND' })
  })
})

describe('what must be as before', () => {
  const mismatch = (s: Partial<LearnSettings>, around: Partial<LearnSurroundings> = {}): SwapError | undefined => {
    try {
      checkResume(resume, { ...settings, ...s }, { ...surroundings, ...around })
      return undefined
    } catch (error) {
      return error as SwapError
    }
  }

  test('the same, more steps, another name: no objection', () => {
    expect(mismatch({})).toBeUndefined()
    expect(mismatch({ steps: 900 })).toBeUndefined()
    expect(mismatch({ steps: 50 })).toBeUndefined()
    expect(mismatch({ name: 'bob' })).toBeUndefined()
  })

  test.each<[string, Partial<LearnSettings>]>([
    ['class', { class: 'dog' }],
    ['learningRate', { learningRate: 2e-4 }],
    ['seed', { seed: 4 }],
    ['batch', { batch: 2 }],
    ['stages', { stages: 4 }],
    ['attentionWeight', { attentionWeight: 0 }],
    ['attentionLevels', { attentionLevels: [] }],
    ['conditioning', { conditioning: 'shared' }],
    ['parametrization', { parametrization: 'direct' }],
    ['templates', { templates: ['a photo of a {}'] }],
    ['steps', { steps: 49 }],
  ])('another %s', (name, change) => {
    const error = mismatch(change)
    expect(error).toMatchObject({ code: 'SWAP_RESUME_MISMATCH', hint: expect.stringContaining('leave the option out') })
    expect(error?.message).toContain(`is: ${name} (`)
  })

  test.each<[string, Partial<LearnSurroundings>]>([
    ['image', { image: hash('other') }],
    ['mask', { mask: hash(new Float32Array(4)) }],
    ['model', { model: hash('other') }],
    ['device', { device: 'cuda' }],
    ['dtype', { dtype: 'bfloat16' }],
    ['threads', { threads: 1 }],
    ['machine', { machine: '2.13.0 avx512f' }],
  ])('another %s', (name, change) => {
    const error = mismatch({}, change)
    expect(error).toMatchObject({ code: 'SWAP_RESUME_MISMATCH', hint: expect.stringContaining('it began with') })
    expect(error?.message).toContain(`is: ${name} (`)
  })

  test('all that differs is named, with both values', () => {
    const message = mismatch({ seed: 4 }, { threads: 1 })?.message
    expect(message).toContain('threads (2 then, 1 now), seed (3 then, 4 now)')
  })
})

describe('hash', () => {
  test('tells numbers apart, whatever buffer they lie in', () => {
    const whole = new Float32Array([1, 2, 3])
    expect(hash(whole.subarray(1))).toBe(hash(new Float32Array([2, 3])))
    expect(hash(whole.subarray(1))).not.toBe(hash(whole.subarray(0, 2)))
    expect(hash('abc')).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
  })
})

describe('a checkpoint', () => {
  test('is not written over anything but a resume file', async () => {
    const path = join(folder, 'me.jpg')
    await checkCheckpointPath(path)
    await writeFile(path, writeResume(resume))
    await checkCheckpointPath(path)
    await writeFile(path, 'a photo')
    await expect(checkCheckpointPath(path)).rejects.toMatchObject({ code: 'SWAP_FILE_EXISTS' })
    await writeFile(path, writeSafetensors([], { format: 'swap-subject' }))
    await expect(checkCheckpointPath(path)).rejects.toMatchObject({ code: 'SWAP_FILE_EXISTS' })
  })

  test('needs a folder that is there, and no folder of its name', async () => {
    await expect(checkCheckpointPath(join(folder, 'no', 'a'))).rejects.toMatchObject({ code: 'SWAP_FILE_NOT_FOUND' })
    await expect(checkCheckpointPath(folder)).rejects.toMatchObject({ code: 'SWAP_FILE_IS_DIRECTORY' })
  })
})
