/** A table of bad inputs on one personalizer of the real engine: what is expected of every row. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { type GeneratedImage, Personalizer, type Subject, SwapError } from '../../lib/index.ts'
import { PHOTO, temporary } from './kit.ts'

export let personalizer: Personalizer
export let alice: Subject
export let picture: GeneratedImage
/** Of a learning of 2 steps of which 1 is done. */
export let resume: Buffer
/** Empty before each row, and still empty after it: what is written wrongly would land here. */
export let folder: string

export const at = (name: string): string => join(folder, name)
export const drawing = (options: object = {}) => ({ prompt: 'a person', steps: 1, width: 16, height: 16, ...options })

/** What is bad, the code that it gets, and what is done with it. */
export type Row = [what: string, code: string, act: () => PromiseLike<unknown>]

/** To be called once at the top of a test file. */
export function useEngine(): void {
  beforeAll(async () => {
    personalizer = await Personalizer.open({ dtype: 'float32' })
    const options = { image: PHOTO, class: 'person', batch: 1 }
    alice = await personalizer.learn({ ...options, name: 'alice', steps: 1 })
    ;[picture] = (await personalizer.generate(drawing())) as [GeneratedImage]
    const checkpoint = join(temporary(), 'a.resume')
    const job = personalizer.learn({ ...options, steps: 2, checkpoint })
    for await (const _ of job) {
      job.cancel()
      break
    }
    await job.catch(() => {})
    resume = readFileSync(checkpoint)
  })
  afterEach(() => {
    vi.unstubAllEnvs()
  })
  afterAll(() => personalizer.close())
}

/** Every row: its code, a sentence, nothing left behind; after all: the personalizer is as good as new. */
export function describeRows(name: string, rows: Row[]): void {
  describe(name, () => {
    test.each(rows)('%s: %s', async (_what, code, act) => {
      folder = temporary()
      const error = await Promise.resolve()
        .then(act)
        .then(
          () => 'nothing was raised',
          (raised: unknown) => raised,
        )
      expect(error).toBeInstanceOf(SwapError)
      expect(error).toMatchObject({ code })
      expect((error as Error).message).not.toMatch(/\[object|^$/)
      expect(readdirSync(folder)).toEqual([])
    })
    test('after all that the same personalizer draws the same picture', async () => {
      const [again] = await personalizer.generate(drawing())
      expect(again?.data).toEqual(picture.data)
    })
  })
}
