/** docs/sdxl.md's example on a small folder with random weights, and what only SDXL does. */
import { mkdtempSync, readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type GeneratedImage, Personalizer, Subject } from '../../lib/index.ts'
import { packageRoot } from '../../lib/paths.ts'
import { describeParity, reference } from './support.ts'

const { model } = await reference('outputs')
const root = packageRoot()
const photo = join(root, 'models', 'mini', 'people', '6.png')

/** The code of the page, without its import and with other paths. */
function example(paths: Record<string, string>): string {
  const page = readFileSync(join(root, 'docs', 'sdxl.md'), 'utf8')
  const code = /```js\n(.*?)```/s.exec(page)![1]!.replace(/^import .*$/m, '')
  return Object.entries(paths).reduce((text, [from, to]) => {
    expect(text).toContain(`'${from}'`)
    return text.replaceAll(`'${from}'`, JSON.stringify(to))
  }, code)
}

describeParity('SDXL', () => {
  const scratch = mkdtempSync(join(tmpdir(), 'swap-sdxl-'))
  let personalizer: Personalizer
  beforeAll(async () => {
    personalizer = await Personalizer.open({ model: model('xl'), dtype: 'float32', threads: 2 })
  })
  afterAll(async () => {
    await personalizer?.close()
    await rm(scratch, { recursive: true, force: true })
  })

  const draw = async (options: object): Promise<GeneratedImage> => {
    const [picture] = await personalizer.generate({ prompt: 'a person', steps: 2, seed: 3, ...options })
    return picture!
  }

  test('the page’s example learns, saves, loads and draws', async () => {
    const [file, drawn] = [join(scratch, 'alice.safetensors'), join(scratch, 'alice.png')]
    const code = example({
      './sdxl-base': model('xl'),
      'me.jpg': photo,
      'alice.safetensors': file,
      'alice.png': drawn,
    })
    // The page's learning takes the model's steps; two show the road.
    const short = code
      .replace("class: 'person'", "class: 'person', steps: 2")
      .replace('[alice] })', '[alice], steps: 2 })')
    const run = Object.getPrototypeOf(async () => {}).constructor('Personalizer', 'Subject', 'console', short)
    const lines: string[] = []
    await run(Personalizer, Subject, { log: (line: string) => lines.push(line) })
    expect(lines).toEqual([expect.stringMatching(/^1 of 2: \d/), expect.stringMatching(/^2 of 2: \d/)])
    const alice = await Subject.load(file)
    expect(alice.widths).toEqual([64, 96])
    expect(readFileSync(drawn).subarray(1, 4).toString()).toBe('PNG')
  })

  test('both encoders’ vectors are learnt; at first they are the class word', async () => {
    const events: { attention: number }[] = []
    const job = personalizer.learn({ image: photo, class: 'person', steps: 3, learningRate: 0.01, seed: 1 })
    for await (const event of job) events.push(event)
    expect(events[0]!.attention).toBeLessThan(1e-6)
    expect(events.at(-1)!.attention).toBeGreaterThan(0)
    const { vectors } = await job
    const start = await personalizer.learn({ image: photo, class: 'person', steps: 1, learningRate: 1e-8, seed: 1 })
    for (const kind of ['k', 'v'] as const) {
      const moved = vectors[kind].map((values, encoder) =>
        values.reduce((most, value, i) => Math.max(most, Math.abs(value - start.vectors[kind][encoder]![i]!)), 0),
      )
      expect(moved).toHaveLength(2)
      for (const by of moved) expect(by).toBeGreaterThan(1e-4)
    }
  })

  test('a learning is resumed to the same bits', async () => {
    const options = { image: photo, class: 'person', learningRate: 0.01, steps: 4 }
    const straight = await personalizer.learn(options)
    const file = join(scratch, 'alice.resume')
    const controller = new AbortController()
    const job = personalizer.learn({ ...options, checkpoint: file }, { signal: controller.signal })
    await expect(
      (async () => {
        for await (const { step } of job) if (step === 2) controller.abort()
        await job
      })(),
    ).rejects.toThrow()
    const resumed = await personalizer.learn({ ...options, resume: file })
    expect(resumed.toBuffer()).toEqual(straight.toBuffer())
  })

  test('no negative prompt is zeros, an empty one is encoded', async () => {
    const [none, empty, words] = [
      await draw({}),
      await draw({ negativePrompt: '' }),
      await draw({ negativePrompt: 'a cat' }),
    ]
    expect(none.data).not.toEqual(empty.data)
    expect(empty.data).not.toEqual(words.data)
    expect(none.parameters).not.toHaveProperty('negativePrompt', '')
    expect(empty.parameters).toHaveProperty('negativePrompt', '')
  })

  test('a subject of one encoder is refused', async () => {
    const vectors = { stages: 1, tokens: 1, k: [new Float32Array(64)], v: [new Float32Array(64)] }
    const subject = new Subject({ name: 'bob', classWord: 'person', vectors, metadata: {} })
    await expect(draw({ prompt: '<bob>', subjects: [subject] })).rejects.toMatchObject({ code: 'SWAP_SUBJECT_WIDTH' })
  })
})
