import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { run, workerSource } from './kit.ts'

const folder = mkdtempSync(join(tmpdir(), 'swap-lifetime-'))
const weights = join(folder, 'weights.bin')
const megabytes = 8
beforeAll(() => writeFileSync(weights, randomBytes(megabytes << 20)))
afterAll(() => rmSync(folder, { recursive: true }))

const request = `kit.load({ file: ${JSON.stringify(weights)}, end: ${megabytes << 20} })`
const inWorker = (code: string) => JSON.stringify(workerSource(code))

/** Some numbers of the process, once what was dropped has been collected. */
const numbers = `
  const { readFileSync } = require('node:fs')
  const settled = async () => { for (let i = 0; i < 3; i++) { await new Promise(setImmediate); gc() } }
  const numbers = async () => {
    await settled()
    const status = readFileSync('/proc/self/status', 'utf8')
    const field = (name) => Number(status.match(new RegExp(name + ':\\\\s+(\\\\d+)'))[1])
    return { threads: field('Threads'), rss: field('VmRSS') / 1024, external: process.memoryUsage().external / 2 ** 20 }
  }
`

describe('the process', () => {
  it('ends by itself with an engine that is idle and open', async () => {
    expect(await run(`await kit.opened(); console.log('open')`)).toBe('open')
  })

  it('does not end while a job runs, or while an engine closes', async () => {
    const out = await run(`
      const engine = await kit.opened()
      engine.learn(kit.learn({ steps: 3000 }), kit.ignore).promise.then(async () => {
        console.log('learnt')
        engine.close().then(() => console.log('closed'))
      })
    `)
    expect(out).toBe('learnt\nclosed')
  })

  it('ends when told to in the midst of a job', async () => {
    const start = `
      const { readFileSync } = require('node:fs')
      const before = threads()
      const engine = await kit.opened()
      // No thread computes any more while the libraries' static objects are destroyed.
      function threads() { return readFileSync('/proc/self/status', 'utf8').match(/Threads:\\s+(\\d+)/)[1] }
      process.on('exit', (code) => console.log('exit', code, 'threads', threads() - before))
      const learning = await kit.running(engine, 'learn', kit.learn({ seed: kit.seeds.block }))
      engine.generate(kit.generate(), kit.ignore)
    `
    expect(await run(`${start} process.exit(0)`)).toBe('exit 0 threads 0')
    expect(await run(`${start} setImmediate(() => { process.exitCode = 0; process.exit() })`)).toBe('exit 0 threads 0')
    // Not caught: the process ends with code 7 or 1, never by a signal.
    await expect(run(`${start} setImmediate(() => { throw new Error('uncaught') })`)).rejects.toMatchObject({
      code: 1,
      signal: null,
    })
  })

  it('gets an exception of a listener as uncaught; the job goes on', async () => {
    const out = await run(`
      const engine = await kit.opened()
      let caught = 0
      process.on('uncaughtException', (error) => { if (error.message === 'of the listener') caught++ })
      const result = await engine.learn(kit.learn({ steps: 5 }), () => { throw new Error('of the listener') }).promise
      console.log(caught, result.state.step)
    `)
    expect(out).toBe('6 5')
  })

  it('sees no unhandled rejection of tasks that have a handler, whatever ends them', async () => {
    const out = await run(`
      process.on('unhandledRejection', () => console.log('unhandled'))
      const engine = await kit.opened()
      const ended = (task) => task.promise.then(() => {}, () => {})
      const all = [ended(await kit.running(engine, 'learn', kit.learn({ seed: kit.seeds.block })))]
      for (let i = 0; i < 5; i++) {
        const task = engine.generate(kit.generate({ seeds: [kit.seeds.block] }), kit.ignore)
        all.push(ended(task))
        if (i % 2) task.cancel()
      }
      await engine.close()
      await Promise.all(all)
      console.log('done')
    `)
    expect(out).toBe('done')
  })
})

describe('memory', () => {
  it('of engines that are opened and closed comes back, and their threads end', async () => {
    const out = await run(
      `${numbers}
      const once = async () => {
        const engine = kit.engine()
        await engine.load(${request}, kit.ignore).promise
        const learning = await kit.running(engine, 'learn', kit.learn({ seed: kit.seeds.block }))
        learning.promise.catch(() => {})
        await engine.generate(kit.generate({ width: 256, height: 256 }), kit.ignore).promise
        await engine.close()
      }
      for (let i = 0; i < 20; i++) await once()
      const before = await numbers()
      for (let i = 0; i < 20; i++) await once()
      const after = await numbers()
      console.log(JSON.stringify({ before, after }))`,
      ['--expose-gc'],
      // glibc gives large blocks back at once, instead of keeping some for later.
      { MALLOC_MMAP_THRESHOLD_: '262144' },
    )
    const { before, after } = JSON.parse(out)
    expect(after.threads).toBe(before.threads)
    // One engine that stays would be 8 MB.
    expect(after.rss - before.rss).toBeLessThan(megabytes)
    expect(after.external - before.external).toBeLessThan(1)
  })

  it('of the weights is told to V8: engines that are dropped make it collect, closed ones do not', async () => {
    const out = await run(
      `${numbers}
      const { PerformanceObserver, constants } = require('node:perf_hooks')
      let collections = 0
      const count = (list) => {
        for (const entry of list.getEntries()) collections += entry.detail.kind === constants.NODE_PERFORMANCE_GC_MAJOR
      }
      const observer = new PerformanceObserver(count)
      observer.observe({ entryTypes: ['gc'] })
      const counted = async () => {
        await new Promise(setImmediate)
        return collections
      }
      const loaded = async () => {
        const engine = kit.engine()
        await engine.load(${request}, kit.ignore).promise
        return engine
      }
      for (let i = 0; i < 20; i++) await (await loaded()).close()
      const closed = await counted()
      for (let i = 0; i < 20; i++) await loaded()
      console.log(closed, (await counted()) - closed)`,
      ['--expose-gc'],
    )
    const [closed, dropped] = out.split(' ').map(Number)
    expect(closed).toBe(0)
    expect(dropped).toBeGreaterThan(0)
  })

  it('of an engine that was dropped unclosed comes back as well', async () => {
    const out = await run(
      `${numbers}
      const before = await numbers()
      await (async () => {
        const engine = kit.engine()
        await engine.load(${request}, kit.ignore).promise
      })()
      let after
      do { after = await numbers() } while (after.threads > before.threads || after.external - before.external > 1)
      console.log('gone')`,
      ['--expose-gc'],
    )
    expect(out).toBe('gone')
  })

  it('of an engine that nobody holds stays as long as a job of it runs', async () => {
    const out = await run(
      `${numbers}
      // Not even a listener's closure holds the engine.
      const start = async () => (await kit.opened()).learn(kit.learn({ seed: kit.seeds.block }), kit.ignore)
      const learning = await start()
      let ended = false
      const end = learning.promise.catch((error) => { ended = true; return error.code })
      for (let i = 0; i < 10; i++) await settled()
      console.log(ended)
      learning.cancel()
      console.log(await end)`,
      ['--expose-gc'],
    )
    expect(out).toBe('false\nSWAP_CANCELLED')
  })

  it('of events is bounded when nobody reads them: the newest are kept, the end always', async () => {
    // The event loop stands still in open() until the worker has sent all its events and opens the pipe, to load it.
    const pipe = join(folder, 'pipe')
    execFileSync('mkfifo', [pipe])
    const out = await run(`
      const engine = kit.engine()
      const events = []
      const flood = engine.evaluate(
        kit.echo({ op: 'flood', inputs: [{ name: 'x', shape: [100000], data: new Float32Array(100000) }] }),
        (event) => events.push(event.done),
      )
      const loading = engine.load(kit.load({ file: ${JSON.stringify(pipe)}, end: 1 }), kit.ignore)
      require('node:fs').openSync(${JSON.stringify(pipe)}, 'w')
      await flood.promise
      await loading.promise.catch(() => {})
      const rising = events.every((done, i) => i === 0 || done > events[i - 1])
      console.log(events.length, events.at(-1), rising)
    `)
    const [count, last, rising] = out.split(' ')
    expect(Number(count)).toBeLessThanOrEqual(1024)
    expect(Number(count)).toBeGreaterThan(1000)
    expect([last, rising]).toEqual(['100000', 'true'])
  })
})

describe('worker threads', () => {
  it('have engines of their own, beside those of the main thread', async () => {
    const out = await run(`
      const { Worker } = require('node:worker_threads')
      const code = ${inWorker(`
        const engine = await kit.opened()
        const { images } = await engine.generate(kit.generate(), kit.ignore).promise
        await engine.close()
        port.postMessage(images[0].data)
      `)}
      const pictures = [0, 1].map(() => new Promise((resolve, reject) => {
        const worker = new Worker(code, { eval: true })
        let picture
        worker.on('message', (it) => { picture = it })
        worker.on('error', reject)
        worker.on('exit', () => resolve(picture))
      }))
      const engine = await kit.opened()
      const mine = (await engine.generate(kit.generate(), kit.ignore).promise).images[0].data
      const same = (await Promise.all(pictures)).map((picture) => Buffer.compare(picture, mine))
      await engine.close()
      console.log(same.join())
    `)
    expect(out).toBe('0,0')
  })

  it('terminated in the midst of jobs leave the process alive, without a thread or memory left behind', async () => {
    const out = await run(
      `${numbers}
      const { Worker } = require('node:worker_threads')
      const code = ${inWorker(`
        const learner = await kit.opened()
        const painter = await kit.opened()
        const loader = kit.engine()
        loader.load(kit.load({ device: 'cuda' }), kit.ignore)
        learner.learn(kit.learn({ seed: kit.seeds.block }), kit.ignore)
        painter.generate(kit.generate({ seeds: [kit.seeds.flood] }), () => port.postMessage('event'))
        painter.learn(kit.learn(), kit.ignore)
      `)}
      const once = async () => {
        const worker = new Worker(code, { eval: true })
        await new Promise((resolve) => worker.once('message', resolve))
        await worker.terminate()
      }
      // The addon is loaded, unloaded and loaded again.
      for (let i = 0; i < 3; i++) await once()
      const before = await numbers()
      for (let i = 0; i < 10; i++) await once()
      const after = await numbers()
      const engine = await kit.opened()
      const { images } = await engine.generate(kit.generate(), kit.ignore).promise
      console.log(JSON.stringify({ threads: after.threads - before.threads, images: images.length }))`,
      ['--expose-gc'],
    )
    expect(JSON.parse(out)).toEqual({ threads: 0, images: 1 })
  })

  it('terminated inside a listener, a getter or the setting up of an engine leave the process alive', async () => {
    const spin = (what: string) => `port.postMessage('${what}'); for (;;) {}`
    const codes = [
      `const engine = await kit.opened(); engine.learn(kit.learn(), () => { ${spin('listener')} })`,
      `const engine = await kit.opened()
       engine.learn(kit.learn({ seed: kit.seeds.block }), kit.ignore)
       engine.generate(Object.defineProperty(kit.generate(), 'seeds', { get() { ${spin('getter')} } }), kit.ignore)`,
      `const engine = await kit.opened()
       process.on('exit', () => engine.learn(kit.learn({ seed: kit.seeds.block }), kit.ignore))
       port.postMessage('opened'); port.ref()`,
      `kit.opened().then((engine) => engine.close()); kit.opened(); port.postMessage('opening')`,
      `for (let i = 0; i < 20; i++) kit.engine().load(kit.load({ device: 'cuda' }), kit.ignore); process.exit(0)`,
    ]
    const out = await run(`
      const { Worker } = require('node:worker_threads')
      for (const code of ${JSON.stringify(codes.map(workerSource))}) {
        const worker = new Worker(code, { eval: true })
        await new Promise((resolve) => { worker.once('message', resolve); worker.once('exit', resolve) })
        await worker.terminate()
      }
      console.log('alive')
    `)
    expect(out).toBe('alive')
  })

  it('the addon can be loaded twice in one environment', async () => {
    const out = await run(`
      const first = kit.engine()
      delete require.cache[kit.binding]
      const second = kit.native().createEngine({ libraries: [], engine: kit.fake })
      console.log(first.constructor === second.constructor)
      await Promise.all([first, second].map(async (engine) => {
        await engine.load(kit.load(), kit.ignore).promise
        await engine.close()
      }))
      console.log('closed')
    `)
    expect(out).toBe('false\nclosed')
  })
})
