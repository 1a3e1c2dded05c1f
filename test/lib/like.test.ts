/** Drawing as before: `like`. */
import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import sharp from 'sharp'
import { describe, expect, test } from 'vitest'
import type { GeneratedImage } from '../../lib/image/index.ts'
import type { GenerateOptions } from '../../lib/options.ts'
import { Subject } from '../../lib/subject.ts'
import { generateResult } from './fake_binding.ts'
import { binding, engine, mini, open, PHOTO, useFakeBinding, WIDTH } from './fixture.ts'

useFakeBinding()

const OPTIONS: GenerateOptions = {
  prompt: 'a (dog:1.2)',
  negativePrompt: 'snow',
  promptWeights: true,
  steps: 4,
  guidanceScale: 3,
  guidanceRescale: 0.5,
  scheduler: 'euler-a',
  seed: 40,
  width: 64,
  height: 96,
}

/** Draws with these options, then again like the picture, and gives both requests. */
async function twice(options: GenerateOptions, again: (picture: GeneratedImage) => Promise<GenerateOptions>) {
  const personalizer = await open()
  binding.onGenerate = (call) => call.resolve(generateResult(call.request))
  try {
    const picture = (await personalizer.generate(options)).at(-1)!
    const job = personalizer.generate(await again(picture))
    const [repeated] = await job
    const [first, second] = engine().generates.map(({ request }) => request)
    return { picture, repeated: repeated!, first: first!, second: second!, warnings: job.warnings }
  } finally {
    await personalizer.close()
  }
}

describe('like', () => {
  test("a picture's parameters ask for the same again", async () => {
    const { first, second, picture, repeated, warnings } = await twice(OPTIONS, async ({ parameters }) => ({
      like: parameters,
    }))
    expect(second).toEqual(first)
    expect(repeated.parameters).toEqual(picture.parameters)
    expect(warnings).toEqual([])
  })

  test('its file does too, as a path and as bytes', async () => {
    const path = join(mkdtempSync(join(tmpdir(), 'swap-like-')), 'a.png')
    const saved = await twice(OPTIONS, async (picture) => {
      await picture.save(path)
      return { like: path }
    })
    expect(saved.second).toEqual(saved.first)
    const bytes = await twice(OPTIONS, async (picture) => ({ like: await picture.toBuffer() }))
    expect(bytes.second).toEqual(bytes.first)
  })

  test('of several pictures the one that is meant is drawn', async () => {
    const { second } = await twice({ ...OPTIONS, count: 3 }, async ({ parameters }) => ({ like: parameters }))
    expect(second.seeds).toEqual([42])
  })

  test('what is said goes before what was', async () => {
    const { first, second } = await twice(OPTIONS, async ({ parameters }) => ({
      like: parameters,
      steps: 9,
      negativePrompt: undefined,
      scheduler: 'ddim',
    }))
    expect(second).toMatchObject({ steps: 9, scheduler: { kind: 'ddim' }, seeds: [40] })
    expect(second.negative).toEqual(first.negative)
  })

  test('a picture that began from another needs that one, and says so where it is not', async () => {
    const begun = { ...OPTIONS, image: PHOTO, strength: 0.5 }
    const same = await twice(begun, async ({ parameters }) => ({ like: parameters, image: PHOTO }))
    expect(same.second).toEqual(same.first)
    expect(same.warnings).toEqual([])
    const grey = { data: new Uint8Array(64 * 96 * 3), width: 64, height: 96 }
    const other = await twice(begun, async ({ parameters }) => ({ like: parameters, image: grey }))
    expect(other.warnings).toEqual(['the picture was drawn with another "image"'])
    await expect(twice(begun, async ({ parameters }) => ({ like: parameters }))).rejects.toMatchObject({
      code: 'SWAP_OPTION_INVALID',
    })
  })

  test('a picture with subjects from before words were isolated is drawn without it again, unless it is asked for', async () => {
    const vectors = { stages: 1, tokens: 1, k: [new Float32Array(WIDTH)], v: [new Float32Array(WIDTH)] }
    const metadata = { fingerprint: mini.fingerprint }
    const subjects = [new Subject({ name: 'alice', classWord: 'person', vectors, metadata })]
    const options = { prompt: 'a photo of <alice>', subjects }
    const old = ({ parameters: { isolate, ...others } }: GeneratedImage) => ({ like: others, subjects })
    const { first, second } = await twice(options, async (picture) => old(picture))
    expect([first.prompt.isolate, second.prompt.isolate]).toEqual([true, undefined])
    const asked = await twice(options, async (picture) => ({ ...old(picture), isolate: true }))
    expect(asked.second.prompt.isolate).toBe(true)
  })

  test('another model is a warning', async () => {
    const { warnings } = await twice(OPTIONS, async ({ parameters }) => ({ like: { ...parameters, model: 'sd15' } }))
    expect(warnings).toEqual(['the picture was drawn with the model "sd15", this one is "mini"'])
  })

  test('a picture that says nothing is refused, and so is what was never a parameter', async () => {
    await expect(twice(OPTIONS, async () => ({ like: PHOTO }))).rejects.toMatchObject({ code: 'SWAP_IMAGE_PARAMETERS' })
    const jpeg = await sharp(PHOTO).jpeg().toBuffer()
    await expect(twice(OPTIONS, async () => ({ like: jpeg }))).rejects.toMatchObject({ code: 'SWAP_IMAGE_PARAMETERS' })
    await expect(twice(OPTIONS, async () => ({ like: {} }))).rejects.toMatchObject({ code: 'SWAP_OPTION_INVALID' })
    await expect(
      twice(OPTIONS, async ({ parameters }) => ({ like: { ...parameters, steps: 'many' } })),
    ).rejects.toMatchObject({ code: 'SWAP_OPTION_INVALID' })
  })
})
