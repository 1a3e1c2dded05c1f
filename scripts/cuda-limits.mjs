// `node scripts/cuda-limits.mjs`: what the CUDA kernels ask of a GPU, computed from their shapes, from cuda/gates.json and
// from their PTX, against the limits of an A100 and an H100; writes cuda/limits.md. Nothing in it is measured.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { at, has, run, say } from './common.mjs'

const gates = JSON.parse(readFileSync(at('cuda', 'gates.json'), 'utf8'))
const folder = at('build', 'cuda-gates')
const tokens = 77
const padded = 80

// NVIDIA's data sheets and the CUDA C++ Programming Guide: processors, clock, dense bfloat16 with fp32 sums, memory,
// instructions and special functions (exp2) a clock and processor; shared memory of a processor.
const gpus = [
  { name: 'A100', arch: '80', processors: 108, clock: 1.41e9, flops: 312e12, bytes: 2.039e12, shared: 167936 },
  { name: 'H100', arch: '90', processors: 132, clock: 1.83e9, flops: 989e12, bytes: 3.352e12, shared: 233472 },
]
const issued = 4 * 32 // threads' instructions a clock
const special = 16

const layers = [
  ['SD 1.5', 4096, 40, 8],
  ['SD 1.5', 1024, 80, 8],
  ['SD 1.5', 256, 160, 8],
  ['SD 1.5', 64, 160, 8],
  ['SDXL', 4096, 64, 10],
  ['SDXL', 1024, 64, 20],
]

/** PTX instructions by kernel: all of a body, each counted once, as one pass over 64 rows runs it. */
function instructions(d) {
  const ptx = join(folder, `d${d}_bf16.ptx`)
  const source = `cuda/instances/d${d}_bf16.cu`
  run('nvcc', ['-std=c++20', '-O3', '-I', 'cuda', '-arch=compute_80', '-ptx', source, '-o', ptx], { quiet: true })
  const found = {}
  for (const [, name, body] of readFileSync(ptx, 'utf8').matchAll(/\.entry (\w+)\(([\s\S]*?)\n\}/g)) {
    const count = (body.match(/^\s+(@%?!?\w+ )?[a-z][\w.]*[^;]*;$/gm) ?? []).filter((l) => !/^\s+\./.test(l)).length
    if (/forward_kernelI.*4FormE1/.test(name)) found.forward = count
    if (/backward_kernelI.*ELb1E/.test(name)) found.backward = count
  }
  return found
}

/** As row_blocks() of cuda/traits.h. */
function rowBlocks(rows, heads, wanted, split) {
  const tiles = Math.ceil(rows / 64)
  const share = Math.min(tiles, Math.ceil(wanted / (heads * split)))
  return Math.ceil(tiles / Math.ceil(tiles / share))
}

function work([, rows, d, heads], batch, pass, body) {
  const count = gates.instructions[`d${d}_bf16`][`${pass} loss`]
  const split = pass === 'backward' && d > 80 ? 2 : 1
  const all = batch * heads
  const blocks = rowBlocks(rows, all, pass === 'forward' ? 512 : 256, split)
  const passes = all * split * Math.ceil(rows / 64) * 4 // of a warp over its 16 rows
  const row = rows * d * 2 * all
  const keys = tokens * d * 2 * all
  const sums = blocks * all * 2 * tokens * d * 4
  const bytes = pass === 'forward' ? 2 * row + 2 * keys + keys / batch : 3 * row + 4 * keys + keys / batch + 2 * sums
  // What the plain version moves of maps alone: logits out and in (2 bytes), softmax out (4), for both maps; difference,
  // square, weights and sum in fp32 (4 in, 4 out each); the map rounded and read again. Back about twice that.
  const map = rows * tokens * all
  return {
    blocks: blocks * all * split,
    bytes,
    eager: bytes + map * (pass === 'forward' ? 56 : 112),
    flops: passes * (count['mma k16'] * 4096 + count['mma k8'] * 2048),
    exps: 2 * rows * padded * all * split,
    instructions: passes * 32 * body[pass],
  }
}

function resident(gpu, d, pass) {
  const registers = gates.registers[gpu.arch][`d${d}_bf16`][`${pass} loss`]
  const shared = gates.shared[`d${d}`][`${pass} loss`] + 1024
  return Math.min(Math.floor(65536 / (Math.ceil(registers / 8) * 8 * 128)), Math.floor(gpu.shared / shared))
}

if (!has('nvcc')) {
  console.warn('! nvcc is not here: the PTX was not counted')
  process.exit(0)
}
mkdirSync(folder, { recursive: true })
const bodies = Object.fromEntries([40, 64, 80, 160].map((d) => [d, instructions(d)]))
const lines = [
  '# What the CUDA kernels ask of a GPU',
  '',
  'Written by `node scripts/cuda-limits.mjs`. **Computed, not measured**: no GPU has run these kernels. bfloat16, 77 tokens,',
  'with the loss, K_r shared by the batch. *Bytes* that must cross the memory, and what the plain version moves. The times',
  'in microseconds are what each resource would need alone, at its full rate. Bounds from below are *memory*, *mma*',
  '(tensor cores at the data sheet rate for dense bfloat16; `mma.sync` reaches about two thirds of it on an H100), *exp2*',
  '(16 a clock and processor); *issue* is an estimate: every PTX instruction of the kernel, what a block does once too, for',
  'each 64 rows, 4 warps a clock. The largest is what it is bound by. *Fill*: blocks of the grid, over those that the GPU can hold at a time.',
]
for (const gpu of gpus) {
  lines.push('', `## ${gpu.name}`, '')
  lines.push('| layer | N | d | B | pass | MB | plain, MB | memory | mma | exp2 | issue | bound by | fill |')
  lines.push('|---|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|---|--:|')
  for (const layer of layers)
    for (const batch of [1, 4])
      for (const pass of ['forward', 'backward']) {
        const w = work(layer, batch, pass, bodies[layer[2]])
        const clocks = gpu.processors * gpu.clock
        const times = {
          memory: w.bytes / gpu.bytes,
          mma: w.flops / gpu.flops,
          exp2: w.exps / (clocks * special),
          issue: w.instructions / (clocks * issued),
        }
        const bound = Object.keys(times).reduce((a, b) => (times[b] > times[a] ? b : a))
        const fill = w.blocks / (gpu.processors * resident(gpu, layer[2], pass))
        const micro = Object.values(times).map((t) => (t * 1e6).toFixed(1))
        const mega = (bytes) => (bytes / 1e6).toFixed(1)
        const [name, rows, d] = layer
        lines.push(
          `| ${[name, rows, d, batch, pass, mega(w.bytes), mega(w.eager), ...micro, bound, fill.toFixed(2)].join(' | ')} |`,
        )
      }
}
writeFileSync(at('cuda', 'limits.md'), `${lines.join('\n')}\n`)
say(`cuda/limits.md; PTX instructions of a pass: ${JSON.stringify(bodies)}`)
