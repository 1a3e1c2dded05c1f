/**
 * The same training step with the fused attention and with the plain one: how far apart loss and gradient are.
 *
 *   node bench/attention/gradient.mjs [--model mini --model FOLDER] [--dtype float32] [--json]
 *
 * Three steps are learnt, so that the subject is no longer its class word and the attention loss not 0. From there each
 * make goes on by one step in a process of its own; its gradient g is what took the first moments of AdamW from m to
 * 0.9 m + 0.1 g. Needs the built package.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Personalizer } from '../../dist/index.js'
import { at } from '../../scripts/common.mjs'

const { values } = parseArgs({
  options: {
    model: { type: 'string', multiple: true, default: ['mini'] },
    dtype: { type: 'string', default: 'float32' },
    json: { type: 'boolean', default: false },
    // Of a step's own process: learn until this many steps are done, and leave a resume file.
    until: { type: 'string' },
    resume: { type: 'string' },
    checkpoint: { type: 'string' },
  },
})
const photo = at('models', 'mini', 'people', '0.png')

async function learn() {
  const [model] = values.model
  const { until, resume, checkpoint, dtype } = values
  const personalizer = await Personalizer.open({ model, dtype })
  const enough = new AbortController()
  const options = { image: photo, class: 'person', steps: 100, learningRate: 0.02, attention: { weight: 0.003 } }
  const job = personalizer.learn({ ...options, resume, checkpoint }, { signal: enough.signal })
  let last
  try {
    for await (const event of job) {
      if (event.step < Number(until)) continue
      last ??= event
      enough.abort()
    }
    await job
  } catch (error) {
    if (!enough.signal.aborted) throw error
  }
  const { loss, attention } = last
  console.log(JSON.stringify({ make: personalizer.info.attention, step: last.step, loss, attention }))
  await personalizer.close()
}

/** A process that learns with one make of the attention. */
function run(model, make, options) {
  const script = fileURLToPath(import.meta.url)
  const flags = Object.entries({ model, dtype: values.dtype, ...options }).flatMap(([k, v]) => [`--${k}`, v])
  const env = { ...process.env, SWAP_ATTENTION: make }
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...flags], { env, encoding: 'utf8' })
  if (status !== 0) throw new Error(`learning with "${make}" ended with ${status}: ${stderr}`)
  return JSON.parse(stdout.trim().split('\n').at(-1))
}

/** The first moments of a resume file, one behind the other, and the step that it was left at. */
function moments(file) {
  const bytes = readFileSync(file)
  const begin = 8 + Number(bytes.readBigUInt64LE(0))
  const { __metadata__, ...tensors } = JSON.parse(bytes.subarray(8, begin).toString())
  const parts = Object.entries(tensors)
    .filter(([name]) => name.startsWith('first_moment.'))
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(
      ([
        ,
        {
          data_offsets: [from, to],
        },
      ]) => {
        const part = bytes.subarray(begin + from, begin + to)
        return Array.from({ length: part.length / 4 }, (_, i) => part.readFloatLE(4 * i))
      },
    )
  return { values: parts.flat(), step: Number(__metadata__.step) }
}

function compare(model) {
  const folder = mkdtempSync(join(tmpdir(), 'swap-gradient-'))
  try {
    const start = join(folder, 'start.resume')
    run(model, '', { until: '3', checkpoint: start })
    const before = moments(start)
    const sides = ['', 'eager'].map((make) => {
      const file = join(folder, `${make}.resume`)
      // The next step may have been done when the word to stop arrives: then once more.
      for (let attempt = 0; attempt < 10; attempt++) {
        const said = run(model, make, { until: String(before.step + 1), resume: start, checkpoint: file })
        const after = moments(file)
        if (after.step !== before.step + 1) continue
        return { ...said, gradient: after.values.map((value, i) => (value - 0.9 * before.values[i]) / 0.1) }
      }
      throw new Error('more than one step was done each time')
    })
    const [a, b] = sides.map(({ gradient }) => gradient)
    const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0)
    const apart = a.map((value, i) => value - b[i])
    return {
      model: basename(model),
      dtype: values.dtype,
      makes: sides.map(({ make }) => make),
      losses: sides.map(({ loss }) => loss),
      attention: sides.map(({ attention }) => attention),
      gradientError: Math.sqrt(dot(apart, apart) / dot(b, b)),
      cosine: dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b)),
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

if (values.until) {
  await learn()
} else {
  const found = values.model.map(compare)
  if (values.json) console.log(JSON.stringify(found))
  else console.table(found.map((row) => Object.fromEntries(Object.entries(row).map(([k, v]) => [k, String(v)]))))
}
