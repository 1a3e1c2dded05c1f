import { describe, expect, test } from 'vitest'
import { SwapError } from '../../lib/errors.ts'
import type { GenerateOptions } from '../../lib/options.ts'
import { Subject } from '../../lib/subject.ts'
import { type Call, generateResult, PROGRESS } from './fake_binding.ts'
import { binding, engine, layoutOf, mini, open, PHOTO, parts, until, useFakeBinding, WIDTH } from './fixture.ts'

useFakeBinding()

function makeSubject(name: string, change: { width?: number; fingerprint?: string; classWord?: string } = {}): Subject {
  const { width = WIDTH, fingerprint = mini.fingerprint, classWord = 'person' } = change
  const vectors = { stages: 2, tokens: 1, k: [new Float32Array(2 * width)], v: [new Float32Array(2 * width)] }
  return new Subject({ name, classWord, vectors, metadata: { fingerprint, model: 'other' } })
}

describe('generate', () => {
  const drawn = (call: Call<Parameters<typeof generateResult>[0], ReturnType<typeof generateResult>>) =>
    call.resolve(generateResult(call.request))

  test('the request, and the pictures with their seeds', async () => {
    const personalizer = await open()
    binding.onGenerate = drawn
    const [alice, bob] = [makeSubject('alice'), makeSubject('bob')]
    const job = personalizer.generate({
      prompt: 'a photo of <bob> and <alice>',
      subjects: [alice, bob],
      negativePrompt: 'a cat',
      steps: 3,
      guidanceScale: 2,
      scheduler: 'euler',
      seed: 41,
      count: 2,
      batch: 1,
      width: 64,
      height: 96,
    })
    const images = await job
    const { request } = engine().generates[0]!
    expect(request).toMatchObject({ steps: 3, guidanceScale: 2, seeds: [41, 42], width: 64, height: 96, batch: 1 })
    expect(request.scheduler.kind).toBe('euler')
    expect(request.prompt.slots.map(({ subject }) => subject)).toEqual([1, 0])
    expect(request.negative.slots).toEqual([])
    expect(request.prompt.ids).not.toEqual(request.negative.ids)
    expect(request.subjects).toEqual([alice.vectors, bob.vectors])
    expect(images).toMatchObject([
      { seed: 41, width: 64, height: 96, prompt: 'a photo of <bob> and <alice>' },
      { seed: 42, width: 64, height: 96 },
    ])
    expect(images[1]?.data[0]).toBe(1)
    expect(images[1]?.parameters).toMatchObject({ seed: 42, scheduler: 'euler', steps: 3, negativePrompt: 'a cat' })
    expect(job.warnings).toEqual([])
    await personalizer.close()
  })

  test("the model's defaults", async () => {
    const personalizer = await open()
    binding.onGenerate = drawn
    const [image] = await personalizer.generate({ prompt: 'a dog' })
    const { request } = engine().generates[0]!
    expect(request).toMatchObject({ steps: 30, guidanceScale: 5, seeds: [0], width: 128, height: 128, batch: 0 })
    expect(request.scheduler.kind).toBe('ddim')
    expect(image?.parameters.subjects).toEqual([])
    // The file's own scheduler goes by the name that would choose it.
    expect(image?.parameters.scheduler).toBe('ddim')
    await personalizer.close()
  })

  test('what is begun from: the picture at its own size, the mask, the strength', async () => {
    const personalizer = await open()
    binding.onGenerate = drawn
    const image = { data: new Uint8Array(100 * 67 * 3).fill(200), width: 100, height: 67 }
    const mask = { data: new Uint8Array(200 * 134 * 3).fill(255), width: 200, height: 134 }
    const [picture] = await personalizer.generate({ prompt: 'a dog', image, mask, guidanceRescale: 0.7 })
    const { request } = engine().generates[0]!
    expect(request).toMatchObject({ width: 96, height: 64, guidanceRescale: 0.7 })
    expect(request.initial).toMatchObject({ strength: 1, image: { width: 96, height: 64 } })
    expect(new Set(request.initial?.image.data)).toEqual(new Set([200]))
    expect(request.initial?.mask).toEqual(new Float32Array(96 * 64).fill(1))
    expect(picture?.parameters).toMatchObject({
      strength: 1,
      guidanceRescale: 0.7,
      image: expect.stringMatching(/^[0-9a-f]{64}$/),
      mask: expect.stringMatching(/^[0-9a-f]{64}$/),
    })
    await personalizer.generate({ prompt: 'a dog', image, width: 48 })
    expect(engine().generates[1]?.request).toMatchObject({ width: 48, height: 32, initial: { strength: 0.8 } })
    expect(engine().generates[1]?.request.initial?.mask).toHaveLength(0)
    await personalizer.close()
  })

  test('an inpainting model needs a picture, paints all of it without a mask, and is not learnt on', async () => {
    const unet = { ...mini.spec.unet, inChannels: 9 }
    parts.readLayout = async () => layoutOf({ ...mini, name: 'painter', spec: { ...mini.spec, unet } })
    const personalizer = await open()
    binding.onGenerate = drawn
    const missing = await personalizer.generate({ prompt: 'a dog' }).catch((error: unknown) => error)
    expect(missing).toMatchObject({ code: 'SWAP_OPTION_INVALID', message: expect.stringContaining('"painter"') })
    await personalizer.generate({ prompt: 'a dog', image: PHOTO })
    expect(engine().generates[0]?.request.initial).toMatchObject({ strength: 0.8, mask: new Float32Array(0) })
    const refused = await personalizer.learn({ image: PHOTO, class: 'person' }).catch((error: unknown) => error)
    expect(refused).toMatchObject({ code: 'SWAP_MODEL_UNSUPPORTED' })
    await personalizer.close()
  })

  test('long prompts and weights reach the engine, the negative prompt at the same length', async () => {
    const personalizer = await open()
    binding.onGenerate = drawn
    const options = { prompt: `${'photo '.repeat(90)}(<alice>:1.5)`, subjects: [makeSubject('alice')] }
    const [picture] = await personalizer.generate({ ...options, promptWeights: true })
    const { request } = engine().generates[0]!
    expect(request.prompt.ids[0]).toHaveLength(154)
    expect(request.negative.ids[0]).toHaveLength(154)
    const { position } = request.prompt.slots[0]!
    expect(position).toBe(77 + 16)
    expect(request.prompt.weights?.[position]).toBe(1.5)
    expect(picture?.parameters.promptWeights).toBe(true)
    await personalizer.close()
  })

  test('words are kept apart from subjects as the model would have it, or the caller; not beside an embedding', async () => {
    const personalizer = await open()
    binding.onGenerate = drawn
    const alice = makeSubject('alice')
    const style = new Subject({ name: 'style', classWord: undefined, vectors: alice.vectors, metadata: {} })
    const isolated = async (options: GenerateOptions, warnings: unknown[] = []) => {
      const job = personalizer.generate({ seed: 3, ...options })
      const [picture] = await job
      expect(job.warnings).toEqual(warnings)
      const { prompt, negative } = engine().generates.at(-1)!.request
      return [prompt.isolate, negative.isolate, picture!.parameters.isolate]
    }
    const [yes, no] = [true, undefined]
    const prompt = 'a photo of <alice> and a dog'
    expect(await isolated({ prompt, subjects: [alice] })).toEqual([yes, no, true])
    expect(await isolated({ prompt, subjects: [alice], negativePrompt: 'not <alice>' })).toEqual([yes, yes, true])
    expect(await isolated({ prompt, subjects: [alice], isolate: false })).toEqual([no, no, false])
    expect(await isolated({ prompt: 'a dog' })).toEqual([no, no, undefined])
    // Each prompt by what stands in it.
    const subjects = [alice, style]
    const unused = expect.stringContaining('"style" is not used')
    const useless = 'the subject "style" has no class word: "isolate" does nothing in a prompt with <style>'
    const both = { prompt: `${prompt}, <style>`, subjects }
    const against = { prompt, negativePrompt: '<style>', subjects }
    expect(await isolated({ prompt, subjects }, [unused])).toEqual([yes, no, true])
    expect(await isolated(against)).toEqual([yes, no, true])
    expect(await isolated({ ...against, isolate: true }, [useless])).toEqual([yes, no, true])
    expect(await isolated(both)).toEqual([no, no, false])
    expect(await isolated({ ...both, isolate: true }, [useless])).toEqual([no, no, false])
    expect(await isolated({ ...both, negativePrompt: '<alice>' })).toEqual([no, yes, true])
    // What a picture says is no word of the caller's.
    expect(await isolated({ subjects, like: { model: 'mini', prompt: both.prompt, isolate: true } })).toEqual([
      no,
      no,
      false,
    ])
    await personalizer.close()
  })

  test('events of both types', async () => {
    const personalizer = await open()
    binding.onGenerate = (call) => {
      call.step(1, 2, { secondsLeft: 3 })
      call.step(2, 2)
      call.emit({ ...PROGRESS, phase: 'decode', done: 1, total: 1 })
      drawn(call)
    }
    const events = []
    for await (const event of personalizer.generate({ prompt: 'a dog', steps: 2 })) events.push(event)
    expect(events).toEqual([
      { type: 'step', step: 1, steps: 2, secondsLeft: 3 },
      { type: 'step', step: 2, steps: 2, secondsLeft: 0 },
      { type: 'decode', step: 1, steps: 1, secondsLeft: 0 },
    ])
    await personalizer.close()
  })

  test('warns of a subject of other text encoders, and of one that the prompt leaves out', async () => {
    const personalizer = await open()
    binding.onGenerate = drawn
    const heard: string[] = []
    const options = {
      prompt: 'a photo of <alice>',
      subjects: [makeSubject('alice', { fingerprint: 'feed' }), makeSubject('bob')],
    }
    const job = personalizer.generate(options, { onWarning: (warning) => heard.push(warning) })
    await job
    expect(heard).toEqual(job.warnings)
    expect(job.warnings).toEqual([
      expect.stringContaining('"alice" was learnt with other text encoders ("other")'),
      expect.stringContaining('"bob" is not used'),
    ])
    await personalizer.close()
  })

  test.each<[string, () => object, string]>([
    [
      'an unknown placeholder',
      () => ({ prompt: 'a photo of <bob>', subjects: [makeSubject('alice')] }),
      'PROMPT_UNKNOWN_SUBJECT',
    ],
    ['a placeholder without subjects', () => ({ prompt: 'a photo of <bob>' }), 'PROMPT_UNKNOWN_SUBJECT'],
    ['a prompt that is too long', () => ({ prompt: 'dog '.repeat(1201) }), 'PROMPT_TOO_LONG'],
    ['a width between', () => ({ prompt: 'x', width: 130 }), 'OPTION_INVALID'],
    ['more pictures than fit', () => ({ prompt: 'x', width: 2048, height: 2048, count: 256 }), 'OPTION_INVALID'],
    ['seeds past the last', () => ({ prompt: 'x', seed: Number.MAX_SAFE_INTEGER }), 'OPTION_INVALID'],
    ['another width', () => ({ prompt: 'x', subjects: [makeSubject('alice', { width: 768 })] }), 'SUBJECT_WIDTH'],
    ['two of one name', () => ({ prompt: 'x', subjects: [makeSubject('a'), makeSubject('a')] }), 'SUBJECT_DUPLICATE'],
    [
      'a class of more tokens here',
      () => ({ prompt: '<a>', subjects: [makeSubject('a', { classWord: 'old person' })] }),
      'PROMPT_CLASS_TOKENS',
    ],
  ])('refuses %s', async (_, options, code) => {
    const personalizer = await open()
    const error = await personalizer.generate(options() as { prompt: string }).catch((e: unknown) => e)
    expect(error).toBeInstanceOf(SwapError)
    expect(error).toMatchObject({ code: `SWAP_${code}` })
    expect(engine().generates).toEqual([])
    await personalizer.close()
  })

  test('cancelled with the last block: still rejects', async () => {
    const personalizer = await open()
    const job = personalizer.generate({ prompt: 'a dog' })
    await until(() => engine().generates.length)
    const [call] = engine().generates
    drawn(call!)
    job.cancel('late')
    await expect(job).rejects.toBe('late')
    await personalizer.close()
  })
})
