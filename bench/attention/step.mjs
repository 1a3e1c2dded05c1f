/**
 * Whole training and sampling steps with the fused attention and without, in one run: the table of docs/attention.md.
 *
 *   node bench/attention/step.mjs [--rounds 5] [--steps 3] [--model mini --model FOLDER] [--dtype bfloat16]
 *
 * Each make has a process of its own, all of them stay open, and they take turns: a ratio is the median of the rounds'
 * own ratios. Memory is the process's peak resident set during the job, without what it had before it. Needs the built
 * package.
 */
import { basename } from 'node:path'
import { parseArgs } from 'node:util'
import { at } from '../../scripts/common.mjs'
import { Peer } from '../peers/process.mjs'

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    steps: { type: 'string', default: '3' },
    dtype: { type: 'string', default: 'bfloat16' },
    model: { type: 'string', multiple: true, default: ['mini', at('.cache', 'full-size', 'sd15')] },
    photo: { type: 'string', default: at('models', 'mini', 'people', '0.png') },
  },
})
const MAKES = { fused: '', 'eager-cross': 'eager-cross', eager: 'eager' }
const JOBS = { train: 'training step', sample: 'sampling step, guided' }
const rounds = Number(values.rounds)
const steps = Number(values.steps)

const median = (numbers) => {
  const sorted = numbers.toSorted((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

async function measure(model) {
  const peers = {}
  for (const [name, make] of Object.entries(MAKES)) {
    const peer = new Peer([
      ...['env', `SWAP_ATTENTION=${make}`, process.execPath],
      ...[at('bench', 'peers', 'ours.mjs'), model, values.dtype, values.photo],
    ])
    peers[name] = { peer, hello: await peer.hello() }
  }
  for (const job of Object.keys(JOBS)) {
    const taken = Object.fromEntries(Object.keys(MAKES).map((name) => [name, { clock: [], cpu: [], memory: [] }]))
    for (let round = 0; round < rounds; ++round) {
      for (const name of Object.keys(MAKES)) {
        const { times, cpu, peak, before, loss, attention } = await peers[name].peer.ask({ do: job, steps })
        taken[name].losses = [loss, attention].map((x) => x?.toPrecision(6) ?? '')
        taken[name].clock.push(median(times.step))
        taken[name].cpu.push(median(cpu.step))
        taken[name].memory.push((peak - before) * 1024)
      }
    }
    const ratio = (name, kind) => median(taken[name][kind].map((value, i) => value / taken.fused[kind][i]))
    for (const name of Object.keys(MAKES)) {
      const { clock, cpu, memory, losses } = taken[name]
      const times = [median(clock), ratio(name, 'clock'), median(cpu), ratio(name, 'cpu')].map((x) => x.toPrecision(3))
      const label = [basename(model), JOBS[job], `${name} (${peers[name].hello.info.attention})`]
      console.log(`| ${[...label, ...times, median(memory).toFixed(0), ...losses].join(' | ')} |`)
    }
  }
  for (const { peer } of Object.values(peers)) await peer.end()
}

console.log(
  '| model | job | attention | s | x fused | processor s | x fused | memory MB | last loss | its attention loss |',
)
console.log('|---|---|---|--:|--:|--:|--:|--:|--:|--:|')
for (const model of values.model) await measure(model)
