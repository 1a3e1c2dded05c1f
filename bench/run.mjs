/**
 * `npm run bench`: this package and its peers in turn, in one run, on this machine. Writes docs/benchmarks.md.
 *
 *   node bench/run.mjs [--quick] [--rounds 5] [--peers diffusers,openvino,sdcpp] [--model FOLDER] [--no-fp32] [--out FILE]
 *
 * Each round does every operation with ours and at once after it with each peer; a ratio is the median of the rounds'
 * own ratios, so that a machine that is slower for a while slows both. Weights are random and of full size. --quick has
 * one round for fp32 and three for bfloat16, of two steps each, and does not compare numbers of threads. Opening has
 * seven rounds at least, the embedded model's comparison of threads five times as many as others. Needs the built
 * package; sets up the peers by itself.
 */
import { createReadStream, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { at, run, say } from '../scripts/common.mjs'
import { python, setUpReference } from '../scripts/python.mjs'
import { chart } from './chart.mjs'
import { openvinoPython, setUpOpenvino } from './peers/openvino.mjs'
import { Peer } from './peers/process.mjs'
import { sdcppModel, sdcppPython, setUpSdcpp } from './peers/sdcpp.mjs'

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    peers: { type: 'string', default: 'diffusers,openvino,sdcpp' },
    model: { type: 'string', default: at('.cache', 'full-size', 'sd15') },
    'no-fp32': { type: 'boolean', default: false },
    'no-mini': { type: 'boolean', default: false },
    out: { type: 'string', default: at('docs', 'benchmarks.md') },
  },
})
const rounds = Number(values.rounds ?? (values.quick ? 3 : 5))
const steps = values.quick ? 2 : 4
const wanted = values.peers.split(',').filter(Boolean)
const photo = at('models', 'mini', 'people', '0.png')

/** Our other side in a comparison where we run with our own dtype too. */
const DEFAULT = 'ours by default'

const median = (numbers) => {
  const sorted = numbers.toSorted((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

await setUpReference()
if (!existsSync(`${values.model}/model_index.json`)) {
  say('making Stable Diffusion 1.5 with random weights')
  run(python, [at('tools/reference/full_size.py'), '--family', 'sd15', '--out', values.model])
}
const withOpenvino = wanted.includes('openvino') && (await setUpOpenvino(values.model))
const withSdcpp = wanted.includes('sdcpp') && (await setUpSdcpp(values.model))

const ours = (model, dtype, name = 'ours', threads = '') => ({
  name,
  command: [process.execPath, at('bench/peers/ours.mjs'), model, dtype, photo, threads],
})
const diffusers = (model, dtype, layout) => ({
  name: 'diffusers',
  command: [python, at('bench/peers/diffusers_peer.py'), model, dtype, layout],
})
const openvino = (model) => ({
  name: 'OpenVINO',
  only: ['sample'],
  command: [openvinoPython, at('bench/peers/openvino_peer.py'), model],
})
const sdcpp = (model) => ({
  name: 'sd.cpp',
  only: ['sample'],
  rounds: 1, // it takes many times as long as the others
  command: [sdcppPython, at('bench/peers/sdcpp_peer.py'), sdcppModel(model)],
})

/** Puts the model's files into the system's cache, so that whoever opens it first does not wait for the disk alone. */
async function warm(model) {
  for (const name of readdirSync(model, { recursive: true })) {
    if (!/\.(safetensors|bin)$/.test(name)) continue
    for await (const piece of createReadStream(join(model, name), { highWaterMark: 1 << 22 })) void piece
  }
}

/** Every side's opening in a process of its own, in turn; and how long it takes from the process's start. */
async function opening(title, model, sides, count) {
  say(title)
  await warm(model)
  const results = { 'open whole': {}, 'start whole': {} }
  for (let round = 0; round < count; round++) {
    for (const { name, command } of round % 2 ? sides.toReversed() : sides) {
      const since = performance.now()
      const peer = new Peer(command)
      const { open, peak } = await peer.hello()
      const whole = (performance.now() - since) / 1000
      await peer.end()
      console.log(`  round ${round + 1}: ${name}: open ${open.toFixed(2)} s, with its start ${whole.toFixed(2)} s`)
      for (const [key, seconds] of [
        ['open whole', open],
        ['start whole', whole],
      ]) {
        results[key][name] ??= { rounds: [], peak: Number.POSITIVE_INFINITY }
        results[key][name].rounds.push(seconds)
        results[key][name].peak = Math.min(results[key][name].peak, peak)
      }
    }
  }
  return { opened: Object.fromEntries(sides.map(({ name }) => [name, true])), results: summed(results), count }
}

/** Medians over the rounds, and the medians of the rounds' own ratios to ours. */
function summed(results) {
  for (const cell of Object.values(results)) {
    for (const side of Object.values(cell)) {
      side.seconds = median(side.rounds)
      side.ratio = median(side.rounds.map((seconds, i) => seconds / cell.ours.rounds[i]))
      if (side.cpu) side.work = median(side.cpu.map((seconds, i) => seconds / cell.ours.cpu[i]))
    }
  }
  return results
}

/**
 * Runs `operations` of all `sides` in turn. Result: by operation and timed part, every side's median seconds, its peak
 * memory and its ratio to ours.
 */
async function compare(title, model, sides, operations, count) {
  say(title)
  await warm(model)
  const peers = []
  const opened = {}
  for (const side of sides) {
    const peer = new Peer(side.command)
    opened[side.name] = await peer.hello()
    peers.push({ ...side, peer })
    console.log(`  ${side.name}: open ${opened[side.name].open.toFixed(1)} s`)
  }
  const results = {}
  for (let round = 0; round < count; round++) {
    for (const operation of operations) {
      // Each is first as often as it is last: what ran before leaves its mark on caches and clocks.
      for (const { name, only, rounds: most = count, peer } of round % 2 ? peers.toReversed() : [...peers]) {
        if (round >= most || (only && !only.includes(operation.do))) continue
        const answer = await peer.ask(operation).catch((error) => {
          if (name === 'ours' || name === DEFAULT) throw error
          console.warn(`! ${name} is not compared any more: ${error.message}`)
          peers.splice(
            peers.findIndex((side) => side.peer === peer),
            1,
          )
        })
        if (!answer) continue
        const { times, cpu, peak } = answer
        for (const [part, seconds] of Object.entries(times)) {
          if (seconds.length === 0) continue
          const key = `${operation.do} ${part}`
          results[key] ??= {}
          results[key][name] ??= { rounds: [], cpu: [], peak: Number.POSITIVE_INFINITY }
          const cell = results[key][name]
          cell.rounds.push(median(seconds))
          cell.cpu.push(median(cpu[part]))
          cell.peak = Math.min(cell.peak, peak)
        }
        const line = Object.entries(times)
          .filter(([, seconds]) => seconds.length > 0)
          .map(([part, seconds]) => `${part} ${median(seconds).toFixed(2)} s`)
        console.log(`  round ${round + 1}: ${operation.do}, ${name}: ${line.join(', ')}, ${peak.toFixed(2)} GB`)
      }
    }
  }
  for (const { peer } of peers) await peer.end()
  return { opened, results: summed(results), count }
}

/** Of a comparison in which we ran twice, the one of `name` and the peers, as if we had run once. */
function between({ opened, results, count }, name) {
  const only = (cells) => {
    const { ours, [DEFAULT]: another, ...peers } = cells
    return { ours: cells[name], ...peers }
  }
  const copy = structuredClone(results)
  return {
    opened: only(opened),
    results: summed(Object.fromEntries(Object.entries(copy).map(([k, cells]) => [k, only(cells)]))),
    count,
  }
}

const LABELS = {
  'train step': 'training step',
  'train unencoded': '– without encoding the photo',
  'sample step': 'guided sampling step',
  'sample decode': 'VAE decode',
  'learn whole': 'a subject is learnt',
  'picture whole': 'a picture of 30 steps',
  'open whole': 'open',
  'start whole': 'start the process and open',
}
const number = (value) => value.toFixed(value < 0.1 ? 3 : value < 10 ? 2 : 1)
/** The median, and the least and the greatest of the rounds. */
const spread = ({ seconds, rounds }) =>
  rounds?.length > 1
    ? `${number(seconds)} (${number(Math.min(...rounds))}–${number(Math.max(...rounds))})`
    : number(seconds)

/** A comparison as a table: ours, then every peer with its ratio. */
function table({ opened, results }) {
  const names = Object.keys(opened)
  const peers = names.slice(1)
  const head = ['', 'ours, s', ...peers.flatMap((name) => [`${name}, s`, 'times ours'])]
  const memory = ['peak memory, GB: ours', ...peers]
  const lines = [`| ${[...head, ...memory].join(' | ')} |`, `|${'---|'.repeat(head.length + memory.length)}`]
  const row = (label, cells, ratio) => {
    const times = peers.flatMap((name) => (cells[name] ? [spread(cells[name]), ratio(name)] : ['', '']))
    const peaks = names.map((name) => (cells[name] ? number(cells[name].peak) : ''))
    lines.push(`| ${[label, spread(cells.ours), ...times, ...peaks].join(' | ')} |`)
  }
  for (const [key, cells] of Object.entries(results)) {
    row(LABELS[key] ?? key, cells, (name) => {
      const { ratio, work } = cells[name]
      return `**${ratio.toFixed(2)}**${work === undefined ? '' : ` (CPU ${work.toFixed(2)})`}`
    })
  }
  return lines.join('\n')
}

const begin = performance.now()
const work = [
  { do: 'train', steps },
  { do: 'sample', steps },
]
const sections = []
const opened = await opening(
  'opening Stable Diffusion 1.5 in bfloat16',
  values.model,
  [ours(values.model, 'bfloat16'), diffusers(values.model, 'bfloat16', 'contiguous')],
  Math.max(rounds, 7), // they are short, and hang on what memory the system has at hand
)
const half = await compare(
  'Stable Diffusion 1.5 in bfloat16',
  values.model,
  [
    ours(values.model, 'bfloat16'),
    ...(wanted.includes('diffusers') ? [diffusers(values.model, 'bfloat16', 'channels-last')] : []),
    ...(withOpenvino ? [openvino(values.model)] : []),
    ...(withSdcpp ? [sdcpp(values.model)] : []),
  ],
  work,
  rounds,
)
sections.push(['Stable Diffusion 1.5, 512 px, bfloat16; diffusers with channels-last', half])
if (!values['no-fp32']) {
  const full = await compare(
    'Stable Diffusion 1.5 in float32',
    values.model,
    [
      ours(values.model, 'float32'),
      diffusers(values.model, 'float32', 'contiguous'),
      ours(values.model, 'auto', DEFAULT),
    ],
    [
      { do: 'train', steps: 1 },
      { do: 'sample', steps: 1 },
    ],
    values.quick ? 1 : 3,
  )
  sections.push(["Stable Diffusion 1.5, 512 px, float32: diffusers' default", between(full, 'ours')])
  sections.push([
    `Stable Diffusion 1.5, 512 px, each as it comes: ours ${full.opened[DEFAULT].info.dtype}, diffusers float32`,
    between(full, DEFAULT),
  ])
}
if (!values['no-mini']) {
  const mini = at('models', 'mini')
  const small = await compare(
    'the embedded model',
    mini,
    [ours(mini, 'float32'), diffusers(mini, 'float32', 'contiguous')],
    [{ do: 'picture', steps: 30 }],
    rounds,
  )
  const learnt = await compare('the embedded model learns', mini, [ours(mini, 'auto')], [{ do: 'learn' }], 1)
  Object.assign(small.results, learnt.results)
  sections.push(['The embedded model, float32', small])
}

// A small model's rounds last a second: there are more of them, for a shared machine has its better and worse seconds.
const scaled = [
  ['Stable Diffusion 1.5, 512 px, bfloat16', values.model, 'bfloat16', 1, rounds],
  ...(values['no-mini'] ? [] : [['the embedded model', at('models', 'mini'), 'auto', 30, 5 * rounds]]),
]
for (const [title, model, dtype, count, times] of values.quick ? [] : scaled) {
  const sides = [ours(model, dtype), ours(model, dtype, 'one thread', '1')]
  const threads = await compare(
    `threads: ${title}`,
    model,
    sides,
    [
      { do: 'train', steps: count },
      { do: 'sample', steps: count },
    ],
    times,
  )
  for (const key of ['train unencoded', 'sample decode']) delete threads.results[key]
  sections.push([`Ours with all threads beside ours with one: ${title}`, threads])
}

sections.push(['Opening Stable Diffusion 1.5, float16 files into bfloat16', opened])

const { info } = half.opened.ours
const minutes = ((performance.now() - begin) / 60_000).toFixed(0)
const svg = join(dirname(values.out), 'images', 'benchmarks.svg')
mkdirSync(dirname(svg), { recursive: true })
writeFileSync(svg, chart(half, LABELS, 'Seconds of one operation: Stable Diffusion 1.5, 512 px, bfloat16'))
writeFileSync(
  values.out,
  `# Benchmarks

Made by \`${['npm run bench', ...(process.argv.length > 2 ? ['--'] : []), ...process.argv.slice(2)].join(' ')}\` in ${minutes} minutes on ${cpus().length} cores of ${cpus()[0].model.trim()}
(${info.cpuFeatures}) with ${(totalmem() / 2 ** 30).toFixed(0)} GB of memory, LibTorch and PyTorch ${info.libtorch}.
Weights are random and of full size.

Ours and the peers take turns, operation by operation, each first in every other round. Seconds are medians over the
rounds, with the least and the greatest; a ratio is the median of the rounds' own ratios, and beside it that of the
seconds that the processes' threads computed for. A ratio of one round, and one whose seconds spread by more than it says,
is no more than a hint. Memory is a process's greatest resident set during the operation, in the round where that was
least. The first step of every round does not count, for nobody.

![${half.opened.diffusers ? 'times of ours and diffusers' : 'times'}](images/benchmarks.svg)

${sections.map(([title, result]) => `## ${title} (${result.count} ${result.count > 1 ? 'rounds' : 'round'})\n\n${table(result)}`).join('\n\n')}

## What is compared

- *training step*: ours is a step of this package's method, which learns vectors for K and V through two text passes and
  has the attention loss. diffusers' is a step of its own Textual Inversion script, which encodes the photo again in
  every step (we encode it once). One photo, batch 1.
- *guided sampling step*: DDIM, prompt and negative prompt in one batch of 2. OpenVINO runs the U-Net alone, without a
  scheduler and guidance around it.
- All run with \`OMP_WAIT_POLICY=PASSIVE\` and \`GOMP_SPINCOUNT=2000\`, much as this package sets them for itself; they are
  not the default of the peers.
- Our steps are timed by their events; of events that come at once, as those of steps of less than 8 ms do, each has its
  part of the time before them.
- *a subject is learnt*: once, with the embedded model's own settings and dtype; no peer does the same.
- *one thread*: ours with \`threads: 1\`, in turn with ours as it comes, one thread a core; the ratio is what the second
  one brings.
- *VAE decode*: from the last step to the pixels.
- *open*: from the call to a model that is ready, with its files in the system's cache. For us that is loading LibTorch,
  too; diffusers has imported PyTorch by then, which *start the process and open* counts for both.
- stable-diffusion.cpp (*sd.cpp*) by its Python package, built for this processor, with the float16 weights as they are;
  it runs the U-Net twice a step, and has one round, for it takes many times as long. OpenVINO keeps float16 weights too, and computes in bfloat16.

The profile of the steps is in [performance.md](performance.md).
`,
)
say(`${values.out}, ${minutes} minutes`)
