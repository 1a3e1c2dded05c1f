/**
 * How soon a cancel takes effect: from the call of cancel() to the rejection, at moments spread over the work.
 *
 *   node bench/cancel.mjs [--rounds 20] [--model mini] [--dtype float32] [--photo FILE] [--out FILE]
 *
 * Prints a table; with --out it is also written as JSON. Needs the built package (npm run build).
 */
import { writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Personalizer } from '../dist/index.js'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '20' },
    model: { type: 'string', default: 'mini' },
    dtype: { type: 'string', default: 'float32' },
    photo: { type: 'string', default: fileURLToPath(new URL('../models/mini/people/0.png', import.meta.url)) },
    out: { type: 'string' },
  },
})
const rounds = Number(values.rounds)
const { model, dtype } = values

const personalizer = await Personalizer.open({ model, dtype })
const learn = () => personalizer.learn({ image: values.photo, class: 'person', steps: 100_000 })
const generate = () => personalizer.generate({ prompt: 'a photo of a person at the beach', steps: 900, count: 4 })

/** Milliseconds until the `count`-th event of a job. */
async function untilEvent(job, count) {
  const begin = performance.now()
  for await (const _ of job) if (--count === 0) break
  return performance.now() - begin
}

/** Milliseconds from the cancel to the rejection with the very reason. */
async function cancel(job) {
  const reason = {}
  const begin = performance.now()
  job.cancel(reason)
  const raised = await job.then(
    () => undefined,
    (error) => error,
  )
  if (raised !== reason) throw new Error('the job did not reject with the reason', { cause: raised })
  return performance.now() - begin
}

/** Cancels a job at a part of its preparation, or after its first step at a part of the next. */
async function duringJob(start, { prepared }) {
  const probe = start()
  const preparation = await untilEvent(probe, 1)
  const step = (await untilEvent(probe, 4)) / 3
  await cancel(probe)
  const times = []
  for (let round = 0; round < rounds; round++) {
    const job = start()
    if (prepared) await untilEvent(job, 1)
    await sleep(((prepared ? step : preparation) * round) / rounds)
    times.push(await cancel(job))
  }
  return { times, usual: prepared ? step : preparation }
}

/** Aborts a loading at a part of its usual time. */
async function duringLoading() {
  const begin = performance.now()
  await (await Personalizer.open({ model, dtype })).close()
  const usual = performance.now() - begin
  const times = []
  for (let round = 0; round < rounds; round++) {
    const controller = new AbortController()
    const opening = Personalizer.open({ model, dtype }, { signal: controller.signal })
    opening.catch(() => {})
    await sleep((usual * round) / rounds)
    const aborted = performance.now()
    controller.abort()
    const opened = await opening.catch(() => undefined)
    // loaded before the abort came: nothing was cancelled
    if (opened) await opened.close()
    else times.push(performance.now() - aborted)
  }
  return { times, usual }
}

const measurements = {
  'learning, preparing': await duringJob(learn, { prepared: false }),
  'learning, in a step': await duringJob(learn, { prepared: true }),
  'generating, in a step': await duringJob(generate, { prepared: true }),
  loading: await duringLoading(),
}
const { info } = personalizer
await personalizer.close()

const milliseconds = (value) => value.toFixed(value < 10 ? 1 : 0).padStart(8)
console.log(`${info.model}, ${info.dtype}, ${info.device}, ${info.threads} threads; ms from cancel to rejection`)
console.log('what                         n   median      max   (all of it takes)')
const rows = Object.entries(measurements).map(([what, { times, usual }]) => {
  const sorted = [...times].sort((a, b) => a - b)
  return {
    what,
    n: sorted.length,
    median: sorted[Math.floor(sorted.length / 2)] ?? Number.NaN,
    max: sorted.at(-1) ?? Number.NaN,
    usual,
  }
})
for (const { what, n, median, max, usual } of rows) {
  console.log(what.padEnd(26), String(n).padStart(3), milliseconds(median), milliseconds(max), milliseconds(usual))
}
if (values.out) {
  const { cpuFeatures, libtorch, threads } = info
  writeFileSync(
    values.out,
    `${JSON.stringify({ model: info.model, dtype, threads, libtorch, cpuFeatures, rows }, null, 2)}\n`,
  )
}
