import { describe, expect, test } from 'vitest'
import { SwapError } from '../../lib/errors.ts'
import { generateSchema, learnSchema, openSchema, parseCall, parseOptions } from '../../lib/options.ts'
import { Subject } from '../../lib/subject.ts'

const minimal = { image: 'me.jpg', class: 'person' }
const parse = { open: openSchema, learn: learnSchema, generate: generateSchema }

function errorOf(call: keyof typeof parse, options: unknown): SwapError {
  try {
    parseOptions(parse[call], options, `${call}()`)
  } catch (error) {
    return error as SwapError
  }
  throw new Error('it was taken')
}

const subject = new Subject({
  name: 'alice',
  classWord: 'person',
  vectors: { stages: 1, tokens: 1, k: [new Float32Array(2)], v: [new Float32Array(2)] },
  metadata: {},
})

describe('what is taken', () => {
  test('defaults of open and generate', () => {
    expect(parseOptions(openSchema, {}, 'open()')).toEqual({ model: 'mini', loras: [], device: 'auto', dtype: 'auto' })
    expect(parseOptions(generateSchema, { prompt: 'a cat' }, 'generate()')).toEqual({
      prompt: 'a cat',
      subjects: [],
      control: [],
      seed: 0,
      count: 1,
      promptWeights: false,
      guidanceRescale: 0,
    })
  })

  test.each([
    ['open', { model: '/models/sd', device: 'cuda:1', dtype: 'bfloat16', threads: 2, onProgress: () => {} }],
    ['open', { threads: undefined }],
    ['learn', minimal],
    ['learn', { ...minimal, image: new Uint8Array(4), mask: { data: new Uint8Array(3), width: 1, height: 1 } }],
    ['learn', { ...minimal, name: 'alice_2-b', steps: 600, learningRate: 1e-4, seed: 0, stages: 10, batch: 4 }],
    ['learn', { ...minimal, attention: { weight: 0, levels: [1, 2] }, crop: 'center', conditioning: 'shared' }],
    ['learn', { ...minimal, attention: { levels: 'all' }, crop: { left: 0, top: 9, size: 64 } }],
    ['learn', { ...minimal, resume: 'a.resume', checkpoint: 'a.resume', parametrization: 'direct' }],
    ['learn', { ...minimal, resume: new Uint8Array(9), checkpoint: { path: 'a', every: 1 }, templates: ['{} at sea'] }],
    ['generate', { prompt: '', subjects: [subject], guidanceScale: 0, scheduler: 'dpm++2m-karras', count: 256 }],
    ['generate', { prompt: 'x', width: 2048, height: 8, seed: Number.MAX_SAFE_INTEGER, negativePrompt: 'y' }],
  ] as const)('%s %j', (call, options) => {
    expect(parseOptions(parse[call], options, call)).toMatchObject(options)
  })
})

describe('SWAP_OPTION_INVALID names the option and the value', () => {
  test.each([
    ['open', { model: '' }, '"model"', "''"],
    ['open', { model: null }, '"model"', 'null'],
    ['open', { device: 'gpu' }, '"device"', "'gpu'"],
    ['open', { device: 'cuda:x' }, '"device"', "'cuda:x'"],
    ['open', { dtype: 'int8' }, '"dtype"', "'int8'"],
    ['open', { threads: 0 }, '"threads"', '0'],
    ['open', { threads: 1.5 }, '"threads"', '1.5'],
    ['open', { onProgress: 'yes' }, '"onProgress"', "'yes'"],
    ['open', 'mini', 'the options of open()', "'mini'"],
    ['open', null, 'the options of open()', 'null'],
    ['learn', undefined, 'the options of learn()', 'undefined'],
    ['learn', { ...minimal, image: 5 }, '"image"', '5'],
    ['learn', { ...minimal, image: { data: [1, 2, 3], width: 1, height: 1 } }, '"image"', 'data'],
    ['learn', { ...minimal, image: { data: new Uint8Array(3), width: 1.5, height: 1 } }, '"image"', '1.5'],
    ['learn', { ...minimal, class: '' }, '"class"', "''"],
    ['learn', { ...minimal, class: '   ' }, '"class"', "''"],
    ['learn', { ...minimal, name: '<alice>' }, '"name"', "'<alice>'"],
    ['learn', { ...minimal, name: '2nd' }, '"name"', "'2nd'"],
    ['learn', { ...minimal, name: 'x'.repeat(65) }, '"name"', 'xxx'],
    ['learn', { ...minimal, steps: 0 }, '"steps"', '0'],
    ['learn', { ...minimal, steps: 100_001 }, '"steps"', '100001'],
    ['learn', { ...minimal, steps: Number.NaN }, '"steps"', 'NaN'],
    ['learn', { ...minimal, steps: '600' }, '"steps"', "'600'"],
    ['learn', { ...minimal, learningRate: 0 }, '"learningRate"', '0'],
    ['learn', { ...minimal, learningRate: Number.POSITIVE_INFINITY }, '"learningRate"', 'Infinity'],
    ['learn', { ...minimal, seed: -1 }, '"seed"', '-1'],
    ['learn', { ...minimal, seed: 2 ** 53 }, '"seed"', '9007199254740992'],
    ['learn', { ...minimal, stages: 11 }, '"stages"', '11'],
    ['learn', { ...minimal, batch: 0 }, '"batch"', '0'],
    ['learn', { ...minimal, attention: 0.003 }, '"attention"', '0.003'],
    ['learn', { ...minimal, attention: { weight: -1 } }, '"attention.weight"', '-1'],
    ['learn', { ...minimal, attention: { levels: [] } }, '"attention.levels"', '[]'],
    ['learn', { ...minimal, attention: { levels: [1, -1] } }, '"attention.levels[1]"', '-1'],
    ['learn', { ...minimal, attention: { levels: 1 } }, '"attention.levels"', '1'],
    ['learn', { ...minimal, crop: 'left' }, '"crop"', "'left'"],
    ['learn', { ...minimal, crop: null }, '"crop"', 'null'],
    ['learn', { ...minimal, crop: { left: -1, top: 0, size: 8 } }, '"crop.left"', '-1'],
    ['learn', { ...minimal, conditioning: 'both' }, '"conditioning"', "'both'"],
    ['learn', { ...minimal, parametrization: 'mlp' }, '"parametrization"', "'mlp'"],
    ['learn', { ...minimal, templates: [] }, '"templates"', '[]'],
    ['learn', { ...minimal, templates: ['{} at sea', 'a photo'] }, '"templates[1]"', "'a photo'"],
    ['learn', { ...minimal, templates: ['{} and {}'] }, '"templates[0]"', "'{} and {}'"],
    ['learn', { ...minimal, resume: '' }, '"resume"', "''"],
    ['learn', { ...minimal, checkpoint: { path: 'a', every: 0 } }, '"checkpoint.every"', '0'],
    ['learn', { ...minimal, checkpoint: 5 }, '"checkpoint"', '5'],
    ['generate', { prompt: 5 }, '"prompt"', '5'],
    ['generate', { prompt: 'x', subjects: [{ name: 'alice' }] }, '"subjects[0]"', 'alice'],
    ['generate', { prompt: 'x', subjects: subject }, '"subjects"', 'Subject'],
    ['generate', { prompt: 'x', steps: 1001 }, '"steps"', '1001'],
    ['generate', { prompt: 'x', guidanceScale: -1 }, '"guidanceScale"', '-1'],
    ['generate', { prompt: 'x', scheduler: 'lms' }, '"scheduler"', "'lms'"],
    ['generate', { prompt: 'x', count: 0 }, '"count"', '0'],
    ['generate', { prompt: 'x', width: 4096 }, '"width"', '4096'],
    ['generate', { prompt: 'x', height: 512.5 }, '"height"', '512.5'],
    ['generate', { prompt: 'x', negativePrompt: null }, '"negativePrompt"', 'null'],
  ] as const)('%s %j', (call, options, name, value) => {
    const error = errorOf(call, options)
    expect(error).toBeInstanceOf(SwapError)
    expect(error.code).toBe('SWAP_OPTION_INVALID')
    expect(error.message).toContain(name)
    expect(error.message).toMatch(/must be|must name|must contain|must begin|must not|must have/)
    expect(error.message.split(', but is ')[1]).toContain(value)
  })

  test('what is left out', () => {
    expect(errorOf('learn', { image: 'me.jpg' }).message).toBe(
      'option "class" of learn() must be a text of 1 to 64 characters, but is missing',
    )
    expect(errorOf('learn', { ...minimal, crop: { left: 0, top: 0 } }).message).toBe(
      'option "crop.size" of learn() must be a whole number from 1 to 1000000, but is missing',
    )
  })
})

describe('SWAP_OPTION_UNKNOWN hints at the nearest name', () => {
  test.each([
    ['learn', { ...minimal, step: 5 }, '"step"', 'did you mean "steps"?'],
    ['learn', { ...minimal, learning_rate: 5 }, '"learning_rate"', 'did you mean "learningRate"?'],
    ['learn', { ...minimal, lr: 5 }, '"lr"', 'did you mean learningRate?'],
    ['learn', { ...minimal, lambda: 5 }, '"lambda"', 'did you mean attention.weight?'],
    ['learn', { ...minimal, attention: { wieght: 1 } }, '"attention.wieght"', 'did you mean "weight"?'],
    ['learn', { ...minimal, crop: { left: 0, top: 0, size: 1, sise: 1 } }, '"crop.sise"', 'did you mean "size"?'],
    ['learn', { image: 'me.jpg', klass: 'person' }, '"klass"', 'did you mean "class"?'],
    ['learn', { ...minimal, checkpoint: { path: 'x', every: 1, evry: 2 } }, '"checkpoint.evry"', '"every"'],
    ['generate', { prompt: 'x', num_inference_steps: 5 }, '"num_inference_steps"', 'did you mean steps?'],
    ['generate', { prompt: 'x', signal: null }, '"signal"', 'in the second argument'],
    ['generate', { prompt: 'x', zzzzzz: 5 }, '"zzzzzz"', 'the options are: prompt, subjects'],
    ['open', { toString: 1 }, '"toString"', 'the options are: model'],
    ['open', { modell: 'x', device: 'gpu' }, '"modell"', 'did you mean "model"?'],
  ] as const)('%s %j', (call, options, name, hint) => {
    const error = errorOf(call, options)
    expect(error.code).toBe('SWAP_OPTION_UNKNOWN')
    expect(error.message).toBe(`${call}() has no option ${name}`)
    expect(error.hint).toContain(hint)
  })
})

test('the second argument takes a signal, a listener for warnings and nothing else', () => {
  const { signal } = new AbortController()
  const onWarning = (): void => {}
  expect(parseCall({ signal, onWarning }, 'learn()')).toEqual({ signal, onWarning })
  expect(parseCall(undefined, 'learn()')).toEqual({})
  expect(() => parseCall({ signal: 'stop' }, 'learn()')).toThrow('option "signal" of learn() must be an AbortSignal')
  expect(() => parseCall({ onWarning: 'stop' }, 'learn()')).toThrow('option "onWarning" of learn() must be a function')
  expect(() => parseCall({ sginal: signal }, 'learn()')).toThrow('no option "sginal"')
  expect(() => parseCall(signal.constructor.name, 'learn()')).toThrow(SwapError)
})
