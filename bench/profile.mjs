/**
 * Where the time of a training step and of a guided sampling step goes, by kind of layer.
 *
 *   node bench/profile.mjs [--model FOLDER] [--dtype bfloat16] [--threads N] [--steps 2] [--ops 0]
 *
 * --ops N also lists the N dearest operators with their shapes. Needs the built package and a C++ compiler: LibTorch's
 * own hook on its operators is built as an addon beside the engine (.cache/profile). The engine's own kernels tell it their
 * names and shapes (cpp/runtime/record.h).
 */
import { mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { parseArgs } from 'node:util'
import { at, fingerprint, once, run } from '../scripts/common.mjs'

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: at('.cache', 'full-size', 'sd15') },
    dtype: { type: 'string', default: 'auto' },
    threads: { type: 'string' },
    steps: { type: 'string', default: '2' },
    ops: { type: 'string', default: '0' },
    photo: { type: 'string', default: at('models', 'mini', 'people', '0.png') },
  },
})
const steps = Number(values.steps)

/** The folder of the LibTorch that this process has open. */
function openedLibtorch() {
  const found = /(\/\S*)\/lib\/libtorch_cpu\.so/.exec(readFileSync('/proc/self/maps', 'utf8'))
  if (!found) throw new Error('no LibTorch is open')
  return found[1]
}

/** Builds the hook against the LibTorch that the engine runs on. */
async function buildHook(libtorch) {
  const addon = at('.cache', 'profile', 'ops.node')
  await once('profile', fingerprint(['bench/profile/ops.cpp'], libtorch), () => {
    mkdirSync(at('.cache', 'profile'), { recursive: true })
    const include = ['include', 'include/torch/csrc/api/include'].map((folder) => `-isystem${libtorch}/${folder}`)
    // NDEBUG as LibTorch was built with: without it some of its structs have more members.
    const node = `-isystem${at('node_modules', 'node-api-headers', 'include')}`
    const libraries = ['torch_cpu', 'c10'].map((name) => `${libtorch}/lib/lib${name}.so`)
    run(
      'c++',
      [
        '-std=c++20',
        '-O1',
        '-DNDEBUG',
        '-fPIC',
        '-shared',
        node,
        ...include,
        at('bench/profile/ops.cpp'),
        '-o',
        addon,
      ].concat(libraries),
    )
  })
  return createRequire(import.meta.url)(addon)
}

const KINDS = {
  convolution: 'convolutions',
  linear: 'linear layers',
  self: 'self-attention',
  cross: 'cross-attention with its loss, and the text',
  norm: 'group and layer norms',
  pointwise: 'SiLU, GELU, additions, multiplications',
  copies: 'copies, casts, concatenation, upsampling',
}

/** Which kind of layer an operator belongs to, and its floating-point operations, from its shapes. */
function classify({ name, shapes, calls, backward }) {
  const tensors = shapes.filter((shape) => /^\d+(x\d+)*$/.test(shape)).map((shape) => shape.split('x').map(Number))
  const lists = shapes
    .filter((shape) => shape.startsWith('['))
    .map((shape) => shape.slice(1, -1).split(',').map(Number))
  const size = (shape) => shape.reduce((product, n) => product * n, 1)
  // Products of ours: x [..., in] or [B, in, h, w] and the weights; back, the gradient and the weights.
  if (name === 'swap::linear')
    return { kind: 'linear', flop: ((2 * size(tensors[0])) / tensors[0].at(-1)) * size(tensors[1]) * calls }
  if (name === 'swap::convolution')
    return { kind: 'convolution', flop: ((2 * size(tensors[0])) / tensors[0][1]) * size(tensors[1]) * calls }
  if (name === 'swap::self_attention')
    return { kind: 'self', flop: (backward ? 10 : 4) * size(tensors[0]) * tensors[1][2] * calls }
  // A convolution as a product has two-dimensional input, other linear layers have batches of rows.
  const product = /::linear/.test(name) && tensors[0].length === 2 && tensors[0][0] > 16
  if (/conv/i.test(name) && tensors.length < 2) return { kind: 'convolution', flop: 0 }
  if (product) return { kind: 'convolution', flop: 2 * size(tensors[0]) * tensors[1][0] * calls }
  if (/conv/i.test(name)) {
    const back = /backward/i.test(name)
    const [input, weight] = back ? tensors.slice(1) : tensors
    const outputs = back ? size(tensors[0]) : (size(input) / input[1] / (lists[0]?.[0] ?? 1) ** 2) * weight[0]
    return { kind: 'convolution', flop: 2 * outputs * size(weight.slice(1)) * calls }
  }
  if (/scaled_dot_product|ScaledDotProduct/.test(name)) {
    const back = /Backward/.test(name)
    const [q, k] = back ? tensors.slice(1) : tensors
    return { kind: k[2] > 80 ? 'self' : 'cross', flop: (back ? 10 : 4) * size(q) * k[2] * calls }
  }
  if (/linear|gated|addmm|AddmmBackward|^aten::(mm|matmul|t)$|MmBackward|^TBackward/i.test(name) && !/Bmm/.test(name)) {
    const flop = /::_?linear/.test(name) ? 2 * size(tensors[0]) * tensors[1][0] : 0
    return { kind: 'linear', flop: flop * calls }
  }
  if (/matmul|bmm|softmax|pow|fused|Attention|attention/i.test(name)) return { kind: 'cross', flop: 0 }
  if (/norm/i.test(name)) return { kind: 'norm', flop: 0 }
  if (/silu|gelu|::add|::mul|AddBackward|MulBackward|sigmoid|::sub|SubBackward/i.test(name))
    return { kind: 'pointwise', flop: 0 }
  return { kind: 'copies', flop: 0 }
}

const parse = (text) =>
  text
    .trim()
    .split('\n')
    .map((line) => line.split('\t'))
    .map(([name, shapes, backward, calls, seconds]) => ({
      name,
      shapes: shapes.trim().split(' '),
      backward: backward === '1',
      calls: Number(calls),
      seconds: Number(seconds),
    }))

function table(title, rows, elapsed, training) {
  const groups = {}
  for (const row of rows) {
    const { kind, flop } = classify(row)
    groups[kind] ??= { forward: 0, backward: 0, flop: 0, counted: 0 }
    const group = groups[kind]
    group[training && row.backward ? 'backward' : 'forward'] += row.seconds
    if (flop > 0) {
      group.flop += flop
      group.counted += row.seconds
    }
  }
  // A small model's steps last some milliseconds.
  const ms = (seconds) => ((seconds / steps) * 1000).toFixed(elapsed / steps < 0.1 ? 2 : 0)
  const lines = Object.entries(KINDS).map(([kind, label]) => {
    const group = groups[kind] ?? { forward: 0, backward: 0, flop: 0, counted: 0 }
    const share = (((group.forward + group.backward) / elapsed) * 100).toFixed(0)
    const rate = group.flop ? (group.flop / group.counted / 1e9).toFixed(0) : ''
    return `| ${label} | ${ms(group.forward)} |${training ? ` ${ms(group.backward)} |` : ''} ${share} % | ${rate} |`
  })
  const microseconds = ({ seconds, calls }) => ((seconds / calls) * 1e6).toFixed(0)
  const inside = rows.reduce((sum, row) => sum + row.seconds, 0)
  console.log(
    `\n${title}: ${ms(elapsed)} ms, ${((inside / elapsed) * 100).toFixed(0)} % of them in its operators and ours\n`,
  )
  console.log(`| | ${training ? 'forward, ms | backward, ms' : 'ms'} | of all | GFLOP/s |`)
  console.log(`|---|---|${training ? '---|' : ''}---|---|\n${lines.join('\n')}`)
  const dearest = rows.toSorted((a, b) => b.seconds - a.seconds).slice(0, Number(values.ops))
  for (const row of dearest) {
    const way = row.backward && training ? 'back' : 'fore'
    console.log(
      `${ms(row.seconds).padStart(6)} ms ${String(Math.round((row.calls / steps) * 10) / 10).padStart(5)} x ${microseconds(row).padStart(7)} us ${way} ${row.name} ${row.shapes.join(' ')}`,
    )
  }
}

const { Personalizer } = await import('../dist/index.js')
const personalizer = await Personalizer.open({
  model: values.model,
  dtype: values.dtype,
  threads: values.threads === undefined ? undefined : Number(values.threads),
})
try {
  const hook = await buildHook(openedLibtorch())
  /** Records `steps` steps of a job, from the end of its first step on. */
  const record = async (job) => {
    let begin = 0
    let done = 0
    let result
    for await (const event of job) {
      if (event.type !== undefined && event.type !== 'step') continue
      if (++done === 1) {
        begin = performance.now()
        hook.start()
      } else if (done === steps + 1) {
        result = { elapsed: (performance.now() - begin) / 1000, rows: parse(hook.stop()) }
      }
    }
    await job
    return result
  }
  const training = await record(personalizer.learn({ image: values.photo, class: 'person', steps: steps + 1 }))
  table('One training step', training.rows, training.elapsed, true)
  const sampling = await record(
    personalizer.generate({ prompt: 'a photo of a person at the beach', steps: steps + 1, scheduler: 'ddim' }),
  )
  table('One guided sampling step', sampling.rows, sampling.elapsed, false)
} finally {
  await personalizer.close()
}
