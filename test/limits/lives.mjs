/** What is tested in a process of its own, on the built package. Prints one JSON object. */
import { createHash } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { Personalizer } from '../../dist/index.js'

const image = fileURLToPath(new URL('../../models/mini/people/0.png', import.meta.url))
const hash = (bytes) => createHash('sha256').update(bytes).digest('hex')
const megabytes = () => Math.round(process.memoryUsage().rss / 2 ** 20)
const drawing = { prompt: 'a person', steps: 1, width: 32, height: 32 }
const open = (options) => Personalizer.open({ dtype: 'float32', ...options })

/** Jobs that go on until someone ends them; `begun` is called when they are under way. */
const ENDLESS = {
  async learning(begun) {
    const job = (await open()).learn({ image, class: 'person', steps: 100_000, batch: 1 })
    for await (const _ of job) begun()
  },
  async generating(begun) {
    const job = (await open()).generate({ prompt: 'a person', steps: 900, count: 64, batch: 1 })
    for await (const _ of job) begun()
  },
  async loading(begun) {
    for (;;) await (await open({ onProgress: begun })).close()
  },
}

/** A worker thread is terminated in the middle of a job; then this thread uses the package itself. */
async function terminate(kind) {
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: kind })
  await new Promise((resolve, reject) => {
    worker.once('message', resolve)
    worker.once('error', reject)
  })
  const code = await worker.terminate()
  const personalizer = await open()
  const images = await personalizer.generate(drawing)
  await personalizer.close()
  return { code, images: images.length }
}

/** Memory after so many engines, opened, used and closed one after the other. */
async function engines() {
  const after = {}
  for (let count = 1; count <= 20; count++) {
    const personalizer = await open()
    await personalizer.generate(drawing)
    await personalizer.close()
    after[count] = megabytes()
  }
  return after
}

/** Memory after so many jobs that were cancelled under way. */
async function cancelled() {
  const personalizer = await open()
  const after = {}
  const cut = async (job) => {
    for await (const _ of job) break
    job.cancel('enough')
    await job.catch(() => {})
  }
  for (let count = 1; count <= 20; count++) {
    await cut(personalizer.learn({ image, class: 'person', steps: 1000, batch: 2 }))
    await cut(personalizer.generate({ prompt: 'a person', steps: 100, width: 64, height: 64 }))
    const stop = new AbortController()
    const loading = Personalizer.open({ onProgress: () => stop.abort('enough') }, { signal: stop.signal })
    await loading.then(
      (opened) => opened.close(),
      () => {},
    )
    after[count] = megabytes()
  }
  await personalizer.close()
  return after
}

/** The threads that an engine gets by default, before and after one that asked for another number. */
async function threads() {
  const of = async (options) => {
    const personalizer = await open(options)
    await personalizer.close()
    return personalizer.info.threads
  }
  const before = await of()
  return { before, other: await of({ threads: before + 1 }), after: await of() }
}

/** What comes out with so many threads where one row is computed at a time: with helpers, if there are any. */
async function numbers(threads) {
  const personalizer = await open({ dtype: 'auto', threads: Number(threads) })
  const prompt = 'a photo of a person at the beach'
  const draw = async (options) => {
    const [picture] = await personalizer.generate({ prompt, steps: 3, seed: 5, ...options })
    return hash(picture.data)
  }
  const result = {
    dtype: personalizer.info.dtype,
    unguided: await draw({ guidanceScale: 1 }),
    guided: await draw({}),
    // With one pixel at the bottom of the U-Net, which both halves come to together where there is one thread.
    smallest: await draw({ width: 32, height: 32 }),
    larger: await draw({ guidanceScale: 1, width: 256, height: 192 }),
  }
  const subject = await personalizer.learn({ image, class: 'person', steps: 4, batch: 1 })
  result.learnt = hash(subject.toBuffer())
  await personalizer.close()
  return result
}

if (isMainThread) {
  const [task, ...words] = process.argv.slice(2)
  console.log(JSON.stringify(await { terminate, engines, cancelled, threads, numbers }[task](...words)))
} else {
  await ENDLESS[workerData](() => parentPort.postMessage('busy'))
}
