import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { NativeEngine } from '../../lib/native.ts'
import { kit, run, thrown } from './kit.ts'

let engine: NativeEngine
beforeAll(() => {
  engine = kit.engine()
})
afterAll(() => engine.close())

type Method = 'load' | 'learn' | 'generate' | 'evaluate'
type Key = string | number

/** Calls `method` with what TypeScript would not let through. */
function call(method: Method, request: unknown, onEvent: unknown = kit.ignore): unknown {
  return Reflect.apply(engine[method], engine, [request, onEvent])
}

const subject = () => ({ stages: 1, tokens: 1, k: [new Float32Array(8)], v: [new Float32Array(8)] })
const state = () => ({ step: 1, tensors: [{ name: 'k.0', shape: [1], data: new Float32Array(1) }] })

/** A whole request of every method: every field of the contract has a value in one of them. */
const requests: Record<Method, () => object> = {
  load: () => kit.load(),
  learn: () => kit.learn({ resume: state() }),
  generate: () => kit.generate({ subjects: [subject()], prompt: { ids: [[1]], slots: [{ subject: 0, position: 0 }] } }),
  evaluate: () => kit.echo({ learn: kit.learn(), scheduler: kit.scheduler(), steps: 1, textEncoder: 0 }),
}

/** The fields that may be undefined. */
const optional = ['request.resume', 'request.learn', 'request.scheduler', 'request.steps', 'request.textEncoder']
const isOptional = (method: Method, path: string) =>
  optional.includes(path) && !(method === 'generate') && !(method === 'learn' && path === 'request.steps')

/** The fields that need not be integers. */
const real =
  /(normEps|freqShift|scalingFactor|shiftFactor|betaStart|betaEnd|trainedBetas\[\d\]|clipSampleRange|dynamicThresholdingRatio|sampleMaxValue|sigmaMin|sigmaMax|lambdaMinClipped|learningRate|attentionWeight|guidanceScale)$/

const written = (path: Key[]) =>
  path.reduce<string>((text, key) => (typeof key === 'number' ? `${text}[${key}]` : `${text}.${key}`), 'request')

/** Every place in `value`, the whole included. */
function* places(value: unknown, path: Key[] = []): Generator<[Key[], unknown]> {
  yield [path, value]
  if (Array.isArray(value)) {
    for (const [i, item] of value.entries()) yield* places(item, [...path, i])
  } else if (typeof value === 'object' && value !== null && !ArrayBuffer.isView(value)) {
    for (const [key, item] of Object.entries(value)) yield* places(item, [...path, key])
  }
}

function replaced(request: object, path: Key[], value: unknown): unknown {
  if (path.length === 0) return value
  let holder = request as Record<Key, unknown>
  for (const key of path.slice(0, -1)) holder = holder[key] as Record<Key, unknown>
  holder[path[path.length - 1] as Key] = value
  return request
}

/** Values of other types, and how the error says what they are. */
function wrong(value: unknown, path: string): [unknown, string][] {
  const always: [unknown, string][] = [
    [null, 'null'],
    [Symbol('s'), 'a symbol'],
    [() => 1, 'a function'],
    [1n, 'a bigint'],
  ]
  if (typeof value === 'boolean') return [...always, [1, '1'], ['true', '"true"'], [{}, 'an object']]
  if (typeof value === 'string') return [...always, [5, '5'], [['x'], 'an array'], ['a\0b', '"a\0b"']]
  if (typeof value === 'number') {
    const numbers: [unknown, string][] = [
      [1.5, '1.5'],
      [Number.NaN, 'NaN'],
      [Number.POSITIVE_INFINITY, 'Infinity'],
      [2 ** 53, '9007199254740992'],
    ]
    const others: [unknown, string][] = [...always, ['8', '"8"'], [true, 'true'], [{ valueOf: () => 8 }, 'an object']]
    return real.test(path) ? others : [...others, ...numbers]
  }
  if (Array.isArray(value)) {
    return [...always, [{ length: 0 }, 'an object'], ['', '""'], [new Proxy([], {}), 'an object'], [7, '7']]
  }
  if (ArrayBuffer.isView(value)) {
    return [...always, [new Float64Array(1), 'a typed array of another kind'], [[1, 2], 'an array'], ['x', '"x"']]
  }
  return [...always.filter(([other]) => typeof other !== 'function'), [5, '5'], ['x', '"x"'], [true, 'true']]
}

describe('a field of another type is a coded error that names it', () => {
  for (const method of ['load', 'learn', 'generate', 'evaluate'] as const) {
    it(method, () => {
      let cases = 0
      for (const [path, value] of places(requests[method]())) {
        const name = written(path)
        const values = wrong(value, name)
        if (!isOptional(method, name)) values.push([undefined, 'undefined'])
        for (const [other, shown] of values) {
          const error = thrown(() => call(method, replaced(requests[method](), path, other)))
          expect(error, name).toMatchObject({ name: 'Error', code: 'SWAP_ENGINE_ARGUMENT' })
          expect(error.message).toMatch(/ must be an? .*, got /)
          expect(error.message.startsWith(`${name} must be `), error.message).toBe(true)
          expect(error.message.endsWith(`got ${shown}`), error.message).toBe(true)
          cases++
        }
      }
      expect(cases).toBeGreaterThan(80)
    })
  }

  it('also deep inside, with its indices', () => {
    const request = kit.load()
    const level = request.spec.unet.levels[1] as unknown as Record<string, unknown>
    level.heads = 'eight'
    expect(thrown(() => call('load', request)).message).toBe(
      'request.spec.unet.levels[1].heads must be a safe integer, got "eight"',
    )
  })

  it('a range cannot begin below zero', () => {
    expect(thrown(() => call('load', kit.load({ begin: -1, end: 3 }))).message).toBe(
      'request.tensors[0].begin must be a safe integer of at least 0, got -1',
    )
  })

  it('a long text is cut at a whole character', () => {
    const request = { ...kit.load(), threads: `${'x'.repeat(56)}\u{1f642}${'y'.repeat(1e6)}` }
    expect(thrown(() => call('load', request)).message).toBe(
      `request.threads must be a safe integer, got "${'x'.repeat(56)}..."`,
    )
  })

  it('onEvent must be a function', () => {
    for (const other of [undefined, null, {}, 'f']) {
      const error = thrown(() => Reflect.apply(engine.evaluate, engine, [kit.echo(), other]))
      expect(error.code).toBe('SWAP_ENGINE_ARGUMENT')
      expect(error.message).toContain('onEvent must be a function')
    }
  })

  it('data must fill its shape', () => {
    const data = new Float32Array(4)
    for (const shape of [[5], [2, 3], [-2, -2], [2 ** 32, 2 ** 32], [2 ** 52, 2 ** 52, 0], []]) {
      const error = thrown(() => call('evaluate', kit.echo({ inputs: [{ name: 'x', shape, data }] })))
      expect(error.code).toBe('SWAP_ENGINE_ARGUMENT')
      expect(error.message).toBe(`request.inputs[0].data must fill the shape [${shape.join(', ')}], got 4 values`)
    }
  })

  it('data must fill its picture', () => {
    for (const [width, height] of [
      [4, 5],
      [-4, -4],
      [2 ** 40, 2 ** 40],
      [0, 0],
    ] as const) {
      const request = kit.learn({ image: { width, height, data: new Uint8Array(48) } })
      expect(thrown(() => call('learn', request)).message).toBe(
        `request.image.data must hold ${width} x ${height} RGB pixels, got 48 bytes`,
      )
    }
  })
})

describe('hostile values', () => {
  it('an exception of a getter or a proxy comes through as it is', () => {
    const boom = new RangeError('boom')
    const explode = () => {
      throw boom
    }
    const getter = Object.defineProperty(kit.generate(), 'steps', { get: explode })
    const proxy = new Proxy(kit.generate(), { get: explode })
    const list = Object.defineProperty([1], 0, { get: explode })
    for (const request of [getter, proxy, { ...kit.generate(), seeds: list }]) {
      expect(thrown(() => call('generate', request))).toBe(boom)
    }
  })

  it('so does a thrown value that is no error', () => {
    const request = Object.defineProperty(kit.generate(), 'steps', {
      get() {
        throw 'just text'
      },
    })
    let caught: unknown
    try {
      call('generate', request)
    } catch (error) {
      caught = error
    }
    expect(caught).toBe('just text')
  })

  it('revoked proxies, detached buffers, endless holes, a request that closes its engine', async () => {
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    expect(thrown(() => call('generate', proxy))).toBeInstanceOf(TypeError)

    const data = new Float32Array(4)
    structuredClone(data, { transfer: [data.buffer] })
    const detached = kit.echo({ inputs: [{ name: 'x', shape: [4], data }] })
    expect(thrown(() => call('evaluate', detached)).message).toContain('got 0 values')

    const holes: number[] = []
    holes.length = 2 ** 32 - 1
    expect(thrown(() => call('generate', kit.generate({ seeds: holes }))).message).toContain('request.seeds[0]')

    const other = kit.engine()
    const closing = kit.echo()
    Object.defineProperty(closing, 'op', {
      get() {
        other.close()
        return 'echo'
      },
    })
    await expect(other.evaluate(closing, kit.ignore).promise).rejects.toMatchObject({ code: 'SWAP_DISPOSED' })
  })

  it('shared memory and a picture of a larger buffer are read as they are', async () => {
    const data = new Float32Array(new SharedArrayBuffer(16))
    data.set([1, 2, 3, 4])
    const inputs = [{ name: 'x', shape: [4], data }]
    expect((await engine.evaluate(kit.echo({ inputs }), kit.ignore).promise).outputs[0]?.data).toEqual(
      Float32Array.of(1, 2, 3, 4),
    )
  })

  it('an engine is made by createEngine alone, and its methods work on engines alone', () => {
    const Engine = engine.constructor as new (...args: unknown[]) => object
    expect(thrown(() => new Engine()).code).toBe('SWAP_ENGINE_ARGUMENT')
    expect(thrown(() => new (class extends Engine {})()).code).toBe('SWAP_ENGINE_ARGUMENT')
    for (const receiver of [undefined, {}, Object.create(engine), new Proxy(engine, {})]) {
      expect(thrown(() => Reflect.apply(engine.load, receiver, [kit.load(), kit.ignore]))).toBeInstanceOf(Error)
      expect(thrown(() => Reflect.apply(engine.close, receiver, []))).toBeInstanceOf(Error)
    }
  })

  it('a program that breaks Error.prepareStackTrace still gets its errors', async () => {
    const out = await run(`
      const engine = kit.engine()
      Error.prepareStackTrace = () => { throw new Error('no stacks here') }
      await engine.evaluate(kit.echo({ op: 'fail' }), kit.ignore).promise.catch((error) => console.log(error.code))
    `)
    expect(out).toBe('x')
  })
})
