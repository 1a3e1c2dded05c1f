// One side of bench/run.mjs: this package, driven by lines of JSON. Prints what opening took, then an answer a line.
import { readFileSync, writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { Personalizer } from '../../dist/index.js'

const [, , model, dtype, photo, threads] = process.argv

const answer = (value) => process.stdout.write(`${JSON.stringify(value)}\n`)
const seconds = (since) => (performance.now() - since) / 1000

/** Peak resident set in GB since the last call. */
function peak() {
  const kilobytes = Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1])
  writeFileSync('/proc/self/clear_refs', '5')
  return kilobytes / 2 ** 20
}

/** Seconds that all threads of this process have computed for. */
function cpuSeconds() {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

/** Seconds within which events have come at once, as those of steps of less than 8 ms do. */
const AT_ONCE = 0.0005

/**
 * What a job takes from one of its events to the next, phase by phase; the first step has what is done once. Of events
 * that came at once each has its part of the time before them.
 */
async function intervals(job) {
  const times = { step: [], decode: [] }
  const work = { step: [], decode: [] }
  const comings = []
  let latest
  let losses
  for await (const { type, loss, attention } of job) {
    losses = { loss, attention }
    const now = { clock: performance.now() / 1000, cpu: cpuSeconds(), types: [type] }
    const before = comings.at(-1)
    if (before && now.clock - latest < AT_ONCE) before.types.push(type)
    else comings.push(now)
    latest = now.clock
  }
  await job
  for (const [i, { clock, cpu, types }] of comings.entries()) {
    if (i === 0) continue
    for (const type of types) {
      times[type].push((clock - comings[i - 1].clock) / types.length)
      work[type].push((cpu - comings[i - 1].cpu) / types.length)
    }
  }
  return { times, cpu: work, ...losses }
}

async function whole(start) {
  const begin = { clock: performance.now(), cpu: cpuSeconds() }
  await start()
  return { times: { whole: [seconds(begin.clock)] }, cpu: { whole: [cpuSeconds() - begin.cpu] } }
}

const prompt = 'a photo of a person at the beach'
const operations = {
  async train({ steps }) {
    const measured = await intervals(personalizer.learn({ image: photo, class: 'person', steps: steps + 1 }))
    // None of our steps encodes the photo, so a step without its encoding is a step.
    for (const parts of [measured.times, measured.cpu]) parts.unencoded = parts.step
    return measured
  },
  async sample({ steps }) {
    return intervals(personalizer.generate({ prompt, steps: steps + 1, scheduler: 'ddim', seed: 1 }))
  },
  async learn() {
    return whole(() => personalizer.learn({ image: photo, class: 'person' }))
  },
  async picture({ steps }) {
    return whole(() => personalizer.generate({ prompt, steps, scheduler: 'ddim', seed: 1 }))
  },
}

const since = performance.now()
const personalizer = await Personalizer.open({ model, dtype, ...(threads ? { threads: Number(threads) } : {}) })
answer({ open: seconds(since), peak: peak(), info: personalizer.info })
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  peak()
  const before = peak()
  answer({ ...(await operations[command.do](command)), before, peak: peak() })
}
await personalizer.close()
