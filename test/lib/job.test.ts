import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { SwapError } from '../../lib/errors.ts'
import { Job, type JobContext } from '../../lib/job.ts'

/** Work that a test ends by hand. */
function controlled<T = string>(signal?: AbortSignal) {
  let context!: JobContext<number>
  let resolve!: (value: T) => void
  let reject!: (error: unknown) => void
  const job = new Job<T, number>(
    (given) => {
      context = given
      return new Promise<T>((yes, no) => {
        resolve = yes
        reject = no
        // as the engine does: a cancel ends the work with an error of its own
        given.signal.addEventListener('abort', () => no(new SwapError('SWAP_CANCELLED', 'from the engine')))
      })
    },
    { signal },
  )
  return { job, emit: (n: number) => context.emit(n), context, resolve, reject }
}

async function collect<E>(events: AsyncIterable<E>): Promise<{ seen: E[]; error: unknown }> {
  const seen: E[] = []
  try {
    for await (const event of events) seen.push(event)
    return { seen, error: undefined }
  } catch (error) {
    return { seen, error }
  }
}

const turn = () => new Promise((resolve) => setImmediate(resolve))

let unhandled: unknown[]
const note = (error: unknown) => void unhandled.push(error)
beforeEach(() => {
  unhandled = []
  process.on('unhandledRejection', note)
})
afterEach(async () => {
  await turn()
  process.off('unhandledRejection', note)
  expect(unhandled).toEqual([])
})

describe('result', () => {
  test('await, then, catch and finally', async () => {
    const { job, resolve } = controlled()
    resolve('done')
    expect(await job).toBe('done')
    expect(await job.then((value) => value.length)).toBe(4)
    expect(await job.catch(() => 'caught')).toBe('done')
    let ended = false
    await job.finally(() => {
      ended = true
    })
    expect(ended).toBe(true)
  })

  test('a failure is thrown by await, again and again', async () => {
    const { job, reject } = controlled()
    const error = new Error('broken')
    reject(error)
    await expect(job).rejects.toBe(error)
    await expect(job).rejects.toBe(error)
    expect(await job.catch((e: unknown) => e)).toBe(error)
  })

  test('work that throws at once is a rejection too', async () => {
    const job = new Job(() => {
      throw new Error('at once')
    })
    await expect(job).rejects.toThrow('at once')
  })

  test('warnings can be read while it runs', async () => {
    const { job, context, resolve } = controlled()
    expect(job.warnings).toEqual([])
    context.warn('small photo')
    expect(job.warnings).toEqual(['small photo'])
    resolve('')
    await job
  })
})

describe('events', () => {
  test('come in order, those before the reader included, and end with the job', async () => {
    const { job, emit, resolve } = controlled()
    emit(1)
    emit(2)
    const reading = collect(job)
    await turn()
    emit(3)
    await turn()
    emit(4)
    resolve('')
    expect(await reading).toEqual({ seen: [1, 2, 3, 4], error: undefined })
  })

  test('the error comes after the last event', async () => {
    const { job, emit, reject } = controlled()
    const error = new Error('broken')
    emit(1)
    const reading = collect(job)
    emit(2)
    reject(error)
    expect(await reading).toEqual({ seen: [1, 2], error })
  })

  test('every reader gets all of them, a late one too', async () => {
    const { job, emit, resolve } = controlled()
    const readers = [collect(job), collect(job)]
    emit(1)
    await turn()
    emit(2)
    resolve('')
    await job
    for (const reader of [...readers, collect(job)]) expect((await reader).seen).toEqual([1, 2])
  })

  test('a slow reader does not hold the job up, and loses only the oldest', async () => {
    const { job, emit, resolve } = controlled()
    const events = job[Symbol.asyncIterator]()
    emit(0)
    expect(await events.next()).toEqual({ done: false, value: 0 })
    const count = 100_000
    for (let n = 1; n < count; n++) emit(n)
    resolve('done')
    expect(await job).toBe('done')
    const { seen } = await collect(events)
    expect(seen.length).toBeGreaterThanOrEqual(4096)
    expect(seen.length).toBeLessThanOrEqual(8192)
    expect(seen).toEqual(Array.from({ length: seen.length }, (_, index) => count - seen.length + index))
  })

  test('leaving the loop does not cancel', async () => {
    const { job, emit, resolve, context } = controlled()
    emit(1)
    for await (const event of job) {
      expect(event).toBe(1)
      break
    }
    expect(context.signal.aborted).toBe(false)
    resolve('done')
    expect(await job).toBe('done')
  })
})

describe('unhandled rejections', () => {
  test('none where nobody looks', async () => {
    controlled().reject(new Error('unseen'))
    await turn()
    await turn()
    expect(unhandled).toEqual([])
  })

  test('none where it is only iterated', async () => {
    const { job, reject } = controlled()
    const reading = collect(job)
    reject(new Error('seen by the loop'))
    expect((await reading).error).toMatchObject({ message: 'seen by the loop' })
    await turn()
    expect(unhandled).toEqual([])
  })

  test('none where it is only awaited', async () => {
    const { job, reject } = controlled()
    reject(new Error('seen by await'))
    await expect(job).rejects.toThrow('seen by await')
    await turn()
    expect(unhandled).toEqual([])
  })
})

describe('cancelling', () => {
  test.each([
    ['an error', new Error('stop')],
    ['a string', 'stop'],
    ['null', null],
    ['0', 0],
  ])('rejects with the very reason: %s', async (_, reason) => {
    const { job, context } = controlled()
    job.cancel(reason)
    expect(context.signal.aborted).toBe(true)
    const seen = await job.then(
      () => 'resolved',
      (error: unknown) => ({ error }),
    )
    expect(seen).toEqual({ error: reason })
    expect((seen as { error: unknown }).error).toBe(reason)
  })

  test('without a reason: SWAP_CANCELLED', async () => {
    const { job } = controlled()
    job.cancel()
    await expect(job).rejects.toMatchObject({ code: 'SWAP_CANCELLED', message: 'the job was cancelled' })
  })

  test('the first reason counts', async () => {
    const { job } = controlled()
    job.cancel('first')
    job.cancel('second')
    await expect(job).rejects.toBe('first')
  })

  test('waits until the work has stopped', async () => {
    let stop!: (error: Error) => void
    const job = new Job(() => new Promise((_, reject) => (stop = reject)))
    let settled = false
    job.then(undefined, () => (settled = true))
    job.cancel('why')
    await turn()
    expect(settled).toBe(false)
    stop(new Error('stopped'))
    await expect(job).rejects.toBe('why')
  })

  test('a signal gives its reason, untouched', async () => {
    const controller = new AbortController()
    const { job } = controlled(controller.signal)
    controller.abort()
    const { stack } = controller.signal.reason as Error
    await expect(job).rejects.toBe(controller.signal.reason)
    expect((controller.signal.reason as Error).stack).toBe(stack)
  })

  test('a signal that is aborted already rejects before any work', async () => {
    let worked = false
    const reason = new Error('before')
    const job = new Job(
      async () => {
        worked = true
      },
      { signal: AbortSignal.abort(reason) },
    )
    await expect(job).rejects.toBe(reason)
    expect(worked).toBe(false)
    expect((await collect(job)).error).toBe(reason)
  })

  test('no effect on a job that has ended', async () => {
    const { job, resolve, context } = controlled()
    resolve('done')
    await job
    job.cancel('late')
    expect(await job).toBe('done')
    expect(context.signal.aborted).toBe(false)
  })

  test('a long-lived signal keeps nothing of the jobs that have ended', async () => {
    let listeners = 0
    const { signal } = new AbortController()
    const add = signal.addEventListener.bind(signal)
    const remove = signal.removeEventListener.bind(signal)
    signal.addEventListener = (...parameters: Parameters<typeof add>) => {
      listeners++
      add(...parameters)
    }
    signal.removeEventListener = (...parameters: Parameters<typeof remove>) => {
      listeners--
      remove(...parameters)
    }
    const { job, resolve } = controlled(signal)
    expect(listeners).toBe(1)
    resolve('')
    await job
    expect(listeners).toBe(0)
  })
})

describe('stack', () => {
  test('an error from elsewhere shows where the call was', async () => {
    function whoCalled() {
      return controlled()
    }
    const { job, reject } = whoCalled()
    const error = new Error('native')
    error.stack = 'Error: native'
    reject(error)
    await expect(job).rejects.toBe(error)
    expect(error.stack).toMatch(/^Error: native\n {4}--- called from ---\n/)
    expect(error.stack).toContain('whoCalled')
  })
})
