import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { NativeEngine, NativeEvent, TrainerState } from '../../lib/native.ts'
import { failure, kit, type NativeError } from './kit.ts'

let engine: NativeEngine
beforeEach(async () => {
  engine = await kit.opened()
})
afterEach(() => engine.close())

describe('results', () => {
  it('load tells what was loaded, from the bytes of the range', async () => {
    const other = kit.engine()
    const events: NativeEvent[] = []
    const info = await other.load(kit.load({ begin: 3, end: 5 }), (event) => events.push(event)).promise
    expect(info).toEqual({
      device: 'cpu',
      dtype: 'float32',
      threads: 1,
      parameters: 2,
      weightBytes: 2,
      libtorch: '',
      attention: 'fake',
      // The third and fourth bytes of kit.cjs: "// What" has "W" and "h" there.
      cpuFeatures: `sum ${'Wh'.charCodeAt(0) + 'Wh'.charCodeAt(1)}`,
    })
    expect(events.map((event) => event.type === 'progress' && [event.phase, event.done, event.total])).toEqual([
      ['load', 0, 2],
      ['load', 2, 2],
    ])
    await other.close()
  })

  it('learn gives vectors and a state, and tells every step', async () => {
    const events: NativeEvent[] = []
    const result = await engine.learn(kit.learn({ steps: 5 }), (event) => events.push(event)).promise
    expect(result.subject).toMatchObject({ stages: 2, tokens: 1 })
    expect(result.subject.k[0]).toBeInstanceOf(Float32Array)
    expect(result.subject.k[0]?.length).toBe(2 * 1 * 8)
    expect(result.state.step).toBe(5)
    expect(result.state.tensors.map(({ name, shape }) => [name, shape])).toEqual([
      ['k.0', [2, 1, 8]],
      ['v.0', [2, 1, 8]],
    ])
    expect(result.seconds).toBeGreaterThanOrEqual(0)
    const steps = events.flatMap((event) => (event.type === 'progress' && event.phase === 'step' ? [event] : []))
    expect(steps.map((event) => event.done)).toEqual([1, 2, 3, 4, 5])
    expect(steps[0]).toMatchObject({ total: 5, secondsLeft: 0 })
    expect(steps[0]?.loss).toBeGreaterThan(0)
    expect(steps[0]?.stage).toBeGreaterThanOrEqual(0)
  })

  it('a learning resumed from a checkpoint gives the same bits', async () => {
    const whole = await engine.learn(kit.learn(), kit.ignore).promise
    const checkpoints: TrainerState[] = []
    await engine.learn(kit.learn({ steps: 13, checkpointEvery: 7 }), (event) => {
      if (event.type === 'checkpoint') checkpoints.push(event.state)
    }).promise
    expect(checkpoints.map((state) => state.step)).toEqual([7])
    const resumed = await engine.learn(kit.learn({ resume: checkpoints[0] }), kit.ignore).promise
    expect(resumed.subject).toEqual(whole.subject)
    const otherSeed = await engine.learn(kit.learn({ seed: 2 }), kit.ignore).promise
    expect(otherSeed.subject).not.toEqual(whole.subject)
  })

  it('generate gives a picture a seed, the same for the same seed', async () => {
    const request = kit.generate({ seeds: [1, 2, 1], width: 24, height: 16 })
    const { images } = await engine.generate(request, kit.ignore).promise
    expect(images).toHaveLength(3)
    for (const image of images) {
      expect(image).toMatchObject({ width: 24, height: 16 })
      expect(image.data).toBeInstanceOf(Uint8Array)
      expect(image.data.length).toBe(24 * 16 * 3)
    }
    expect(images[2]?.data).toEqual(images[0]?.data)
    expect(images[1]?.data).not.toEqual(images[0]?.data)
  })

  it('of quick steps every event comes, in order, and before the end, whatever it is', async () => {
    const told = async (seed: number) => {
      const all: (number | string)[] = []
      const { promise } = engine.generate(kit.generate({ seeds: [seed], steps: 40 }), (event) => {
        if (event.type === 'progress' && event.phase === 'step') all.push(event.done)
      })
      await promise.then(
        () => all.push('done'),
        (error: NativeError) => all.push(error.code),
      )
      return all
    }
    const count = (n: number) => Array.from({ length: n }, (_, i) => i + 1)
    expect(await told(1)).toEqual([...count(40), 'done'])
    expect(await told(kit.seeds.fail)).toEqual([...count(20), 'SWAP_NUMERIC_NAN'])
  })

  it('a subject goes from learn into generate with all its values', async () => {
    const learnt = await engine.learn(kit.learn({ image: kit.photo(250, 10, 10), steps: 200 }), kit.ignore).promise
    const request = kit.generate({
      prompt: { ids: [[1, 5, 7, 99]], slots: [{ subject: 0, position: 1 }] },
      subjects: [learnt.subject],
    })
    const { images } = await engine.generate(request, kit.ignore).promise
    const data = images[0]?.data ?? new Uint8Array()
    const discs = Array.from({ length: data.length / 3 }, (_, i) => [...data.subarray(3 * i, 3 * i + 3)]).filter(
      ([red = 0, green = 0, blue = 0]) => red > 240 && green < 20 && blue < 20,
    )
    expect(discs.length).toBeGreaterThan(20)
  })

  it('arrays go there and back whatever part of a buffer they are', async () => {
    const data = new Float32Array(Float32Array.of(9, 1, 2, 9).buffer, 4, 2)
    const empty = { name: 'none', shape: [0, 3], data: new Float32Array(0) }
    const scalar = { name: 'one', shape: [], data: Float32Array.of(-0) }
    const inputs = [{ name: 'ünï \u{1f642}', shape: [2], data }, empty, scalar]
    const { outputs } = await engine.evaluate(kit.echo({ inputs }), kit.ignore).promise
    expect(outputs).toEqual([{ name: 'ünï \u{1f642}', shape: [2], data: Float32Array.of(1, 2) }, empty, scalar])
  })

  it('arrays that come out can be transferred to another thread', async () => {
    const { images } = await engine.generate(kit.generate(), kit.ignore).promise
    const data = images[0]?.data ?? new Uint8Array()
    const moved = structuredClone(data, { transfer: [data.buffer as ArrayBuffer] })
    expect(moved.length).toBe(32 * 32 * 3)
    expect(data.length).toBe(0)
  })

  it('what is handed in may be changed as soon as the call returned', async () => {
    const learning = await kit.running(engine, 'learn', kit.learn({ seed: kit.seeds.block }))
    const mine = Float32Array.of(1, 2, 3, 4)
    const inputs = [{ name: 'x', shape: [4], data: mine }]
    const task = engine.evaluate(kit.echo({ inputs }), kit.ignore)
    mine.fill(0)
    inputs.length = 0
    expect((await task.promise).outputs[0]?.data).toEqual(Float32Array.of(1, 2, 3, 4))
    learning.cancel()
    await failure(learning)
  })
})

describe('order', () => {
  it('a generation and an evaluation go before a learning that runs and one that waits', async () => {
    const order: string[] = []
    const learning = await kit.running(engine, 'learn', kit.learn({ seed: kit.seeds.block }))
    const noted = (name: string) => () => {
      order.push(name)
    }
    const second = engine.learn(kit.learn(), kit.ignore).promise.then(noted('second learning'))
    const generation = engine.generate(kit.generate(), kit.ignore).promise.then(noted('generation'))
    const evaluation = engine.evaluate(kit.echo(), kit.ignore).promise.then(noted('evaluation'))
    await Promise.all([generation, evaluation])
    learning.cancel()
    expect((await failure(learning)).code).toBe('SWAP_CANCELLED')
    order.push('learning')
    await second
    expect(order).toEqual(['generation', 'evaluation', 'learning', 'second learning'])
  })

  it('nothing overtakes a load', async () => {
    const other = kit.engine()
    const loading = other.load(kit.load(), kit.ignore)
    const generation = other.generate(kit.generate(), kit.ignore)
    expect((await generation.promise).images).toHaveLength(1)
    await loading.promise
    await other.close()
  })

  it('jobs of one kind go in the order of their calls', async () => {
    const order: number[] = []
    await Promise.all(
      [0, 1, 2, 3, 4].map((i) => engine.learn(kit.learn(), kit.ignore).promise.then(() => order.push(i))),
    )
    expect(order).toEqual([0, 1, 2, 3, 4])
  })

  it('several engines work at once', async () => {
    const others = await Promise.all([kit.opened(), kit.opened(), kit.opened()])
    const blocked = await Promise.all(
      others.map((other) => kit.running(other, 'generate', kit.generate({ seeds: [kit.seeds.block] }))),
    )
    expect((await engine.generate(kit.generate(), kit.ignore).promise).images).toHaveLength(1)
    for (const task of blocked) task.cancel()
    for (const task of blocked) expect((await failure(task)).code).toBe('SWAP_CANCELLED')
    await Promise.all(others.map((other) => other.close()))
  })
})

describe('cancel', () => {
  it('ends a running generation; the engine goes on', async () => {
    const task = await kit.running(engine, 'generate', kit.generate({ seeds: [kit.seeds.block] }))
    task.cancel()
    task.cancel()
    expect(await failure(task)).toMatchObject({ code: 'SWAP_CANCELLED', message: 'generation was cancelled' })
    expect((await engine.generate(kit.generate(), kit.ignore).promise).images).toHaveLength(1)
    task.cancel()
  })

  it('ends a running learning with its state, from which it can be resumed', async () => {
    const learning = await kit.running(engine, 'learn', kit.learn({ seed: kit.seeds.block }))
    const generated = engine.generate(kit.generate(), kit.ignore)
    await generated.promise // one yield at least: a step was done
    learning.cancel()
    const { code, state } = await failure(learning)
    expect(code).toBe('SWAP_CANCELLED')
    expect(state?.tensors).toHaveLength(2)
    const resumed = await engine.learn(kit.learn({ resume: state }), kit.ignore).promise
    expect(resumed.state.step).toBe(20)
  })

  it('ends a load', async () => {
    const other = kit.engine()
    const task = await kit.running(other, 'load', kit.load({ device: 'cuda' }))
    task.cancel()
    expect((await failure(task)).code).toBe('SWAP_CANCELLED')
    await other.close()
  })

  it('rejects a waiting job while the one before it still runs', async () => {
    const blocking = await kit.running(engine, 'generate', kit.generate({ seeds: [kit.seeds.block] }))
    const waiting = engine.generate(kit.generate(), kit.ignore)
    const last = engine.generate(kit.generate(), kit.ignore)
    waiting.cancel()
    expect(await failure(waiting)).toMatchObject({
      code: 'SWAP_CANCELLED',
      message: 'the job was cancelled before it began',
    })
    blocking.cancel()
    await failure(blocking)
    expect((await last.promise).images).toHaveLength(1)
  })

  it('does nothing to a job that is done', async () => {
    const task = engine.evaluate(kit.echo(), kit.ignore)
    await task.promise
    task.cancel()
    expect((await task.promise).outputs).toHaveLength(1)
  })
})

describe('errors', () => {
  it('have code, message, hint and the stack of the call', async () => {
    async function theCaller() {
      return await failure(engine.evaluate(kit.echo({ op: 'fail' }), kit.ignore))
    }
    const error = await theCaller()
    expect(error).toMatchObject({ code: 'x', message: 'failed as asked', hint: 'ask for something else' })
    expect(error.stack).toContain('Error: failed as asked')
    expect(error.stack).toContain('theCaller')
  })

  it('of a learning bring its state', async () => {
    const error = await failure(engine.learn(kit.learn({ seed: kit.seeds.fail }), kit.ignore))
    expect(error.code).toBe('SWAP_NUMERIC_NAN')
    expect(error.state?.step).toBe(10)
    const early = await failure(engine.learn(kit.learn({ seed: kit.seeds.noMemory }), kit.ignore))
    expect(early.code).toBe('SWAP_MEMORY_DEVICE')
    expect(early).not.toHaveProperty('state')
  })

  it('of a load leave an engine that can be closed', async () => {
    const other = kit.engine()
    const missing = other.load(kit.load({ file: '/nowhere/model.safetensors' }), kit.ignore)
    expect((await failure(missing)).message).toContain('/nowhere/model.safetensors')
    expect((await failure(other.generate(kit.generate(), kit.ignore))).code).toBe('SWAP_ENGINE_STATE')
    await other.close()
  })
})

describe('close', () => {
  it('cancels what runs and what waits, then resolves; again is the same', async () => {
    const other = await kit.opened()
    const learning = await kit.running(other, 'learn', kit.learn({ seed: kit.seeds.block }))
    const waiting = other.learn(kit.learn(), kit.ignore)
    const ends: string[] = []
    const both = [learning, waiting].map(async (task) => ends.push((await failure(task)).code))
    const closed = [other.close(), other.close()].map((promise) => promise.then(() => ends.push('closed')))
    await Promise.all([...both, ...closed])
    expect(ends).toEqual(['SWAP_CANCELLED', 'SWAP_CANCELLED', 'closed', 'closed'])
    await other.close()
  })

  it('a call on a closed engine, or on one that is closing, rejects', async () => {
    const other = await kit.opened()
    const closing = other.close()
    expect((await failure(other.generate(kit.generate(), kit.ignore))).code).toBe('SWAP_DISPOSED')
    await closing
    expect((await failure(other.learn(kit.learn(), kit.ignore))).code).toBe('SWAP_DISPOSED')
  })

  it('an engine that never did anything closes', () => kit.engine().close())
})
