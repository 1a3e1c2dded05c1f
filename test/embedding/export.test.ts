/** Subjects as other programs' files: the mean of what a subject has, under the names that they look for. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { EXPORT_LOSS, meanLoss } from '../../lib/embedding/index.ts'
import { readSafetensors } from '../../lib/model/safetensors.ts'
import { packageRoot } from '../../lib/paths.ts'
import { Subject } from '../../lib/subject.ts'
import { swap } from '../cli/kit.ts'
import { temporary } from '../libtorch/fixtures.ts'

const filled = (...values: number[]): Float32Array => Float32Array.from(values)
/** 2 stages, 2 tokens, width 2. */
const alice = new Subject({
  name: 'alice',
  classWord: 'old person',
  vectors: { stages: 2, tokens: 2, k: [filled(1, 2, 3, 4, 5, 6, 7, 8)], v: [filled(0, 0, 0, 0, 2, 4, 6, 8)] },
  metadata: {},
})
const MEAN = filled(2, 3, 4, 5)
const both = new Subject({
  name: 'xl',
  classWord: 'cat',
  vectors: { stages: 1, tokens: 1, k: [filled(1, 3), filled(1, 1, 1)], v: [filled(3, 5), filled(2, 2, 2)] },
  metadata: {},
})

describe('the bytes', () => {
  it.each([
    ['diffusers', '<alice>'],
    ['a1111', 'emb_params'],
    ['kohya', 'emb_params'],
  ] as const)('for %s hold the mean over stages and K and V, token by token', async (format, name) => {
    const bytes = alice.toBuffer({ format })
    expect(readSafetensors(bytes).tensors).toEqual([{ name, shape: [2, 2], data: MEAN }])
    expect((await Subject.load(bytes)).vectors).toMatchObject({ stages: 1, tokens: 2, k: [MEAN], v: [MEAN] })
  })

  it.each(['diffusers', 'a1111', 'kohya'] as const)('for %s are a pair where there are two text encoders', (format) => {
    expect(readSafetensors(both.toBuffer({ format })).tensors).toEqual([
      { name: 'clip_g', shape: [1, 3], data: filled(1.5, 1.5, 1.5) },
      { name: 'clip_l', shape: [1, 2], data: filled(2, 4) },
    ])
  })

  it('of what was an embedding before are that embedding', async () => {
    const embedding = await Subject.load(alice.toBuffer({ format: 'kohya' }))
    expect(meanLoss(embedding.vectors)).toBe(0)
    expect(readSafetensors(embedding.toBuffer({ format: 'kohya' })).tensors[0]!.data).toEqual(MEAN)
    // ((1-2)² + … over K and V) / (1² + 2² + …)
    expect(meanLoss(alice.vectors)).toBeCloseTo(Math.sqrt(108 / 324), 6)
  })

  it('are of a known format', () => {
    const wrong = (): Buffer => alice.toBuffer({ format: 'webui' as 'a1111' })
    expect(wrong).toThrow(
      expect.objectContaining({ code: 'SWAP_OPTION_INVALID', message: expect.stringContaining("'a1111'") }),
    )
  })
})

describe('a file', () => {
  it('is written whole or not at all', async () => {
    const path = join(temporary(), 'alice.safetensors')
    await alice.export(path, { format: 'diffusers' })
    expect(readFileSync(path).equals(alice.toBuffer({ format: 'diffusers' }))).toBe(true)
    await expect(alice.export('', { format: 'diffusers' })).rejects.toMatchObject({ code: 'SWAP_OPTION_INVALID' })
    const nothing = undefined as unknown as { format: 'kohya' }
    await expect(alice.export(path, nothing)).rejects.toMatchObject({ code: 'SWAP_OPTION_INVALID' })
    await expect(alice.export('/no/such/a', { format: 'kohya' })).rejects.toMatchObject({ code: 'SWAP_FILE_NOT_FOUND' })
  })
})

describe('swap export', () => {
  it('writes the file, and says what is lost', async () => {
    const folder = temporary()
    await alice.save(join(folder, 'alice.safetensors'))
    const command = ['export', 'alice.safetensors', '--format', 'diffusers', '--out']
    const done = await swap([...command, 'out.safetensors'], { cwd: folder })
    expect(done).toMatchObject({ code: 0, stdout: 'out.safetensors holds 2 vectors for diffusers\n' })
    expect(done.stderr).toContain('mean of 2 stages of K and V; 58 %')
    expect(done.stderr).toContain(`changed by ${EXPORT_LOSS.exported} of 255`)
    expect(readFileSync(join(folder, 'out.safetensors')).equals(alice.toBuffer({ format: 'diffusers' }))).toBe(true)

    const again = await swap([...command, 'out.safetensors', '--json'], { cwd: folder })
    expect(again.events).toMatchObject([{ type: 'error', code: 'SWAP_FILE_EXISTS' }])
    expect((await swap([...command, 'out.safetensors', '--force'], { cwd: folder })).code).toBe(0)
    const stream = await swap([...command, '-'], { cwd: folder })
    expect(stream.bytes.equals(alice.toBuffer({ format: 'diffusers' }))).toBe(true)
  })

  it('says nothing of loss where there is none, and writes nothing for a bad format', async () => {
    const folder = temporary()
    await (await Subject.load(alice.toBuffer({ format: 'kohya' }))).save(join(folder, 'a.safetensors'))
    const done = await swap(['export', 'a.safetensors', '--format', 'kohya', '--out', 'b.safetensors'], { cwd: folder })
    expect(done).toMatchObject({ code: 0, stderr: '' })
    const bad = await swap(['export', 'a.safetensors', '--format', 'webui', '--out', 'c.safetensors'], { cwd: folder })
    expect(bad.code).toBe(2)
    expect(existsSync(join(folder, 'c.safetensors'))).toBe(false)
  })
})

it('the figures of the command stand in the docs', () => {
  const docs = readFileSync(join(packageRoot(), 'docs', 'embeddings.md'), 'utf8')
  for (const figure of Object.values(EXPORT_LOSS)) expect(docs).toContain(`| ${figure} |`)
})
