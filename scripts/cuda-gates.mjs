// `node scripts/cuda-gates.mjs`: compiles every kernel of cuda/ with nvcc for sm_80 and sm_90 and holds what came out
// against cuda/gates.json: no spills, no more registers than committed, as many mma, ldmatrix, cp.async and barriers in
// the PTX (the shape of the code), the same dynamic shared memory, within each arch's limit.
// --all: sm_80, 86, 89, 90, 100, 120. --write: compiles for all and writes gates.json and gates.md anew.
// --instances: writes cuda/instances/*.cu. Without nvcc it says so and ends well.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { at, has, root, run } from './common.mjs'

const flag = (name) => process.argv.includes(name)
const allArchs = [80, 86, 89, 90, 100, 120]
const archs = flag('--all') || flag('--write') ? allArchs : [80, 90]
const headSizes = [32, 40, 64, 80, 160]
const elements = ['Bf16', 'Fp16']
const kernels = ['forward plain', 'forward loss', 'forward maps', 'backward plain', 'backward loss']
const instances = headSizes.flatMap((d) => elements.map((e) => ({ d, e, name: `d${d}_${e.toLowerCase()}` })))
const source = ({ d, e }) =>
  `// Written by scripts/cuda-gates.mjs --instances.\n#include "instance.cuh"\n\ntemplate struct swap::cuda::Instance<${d}, swap::cuda::${e}>;\n`
const path = ({ name }) => at('cuda', 'instances', `${name}.cu`)
const folder = at('build', 'cuda-gates')
const table = at('cuda', 'gates.json')

if (flag('--instances')) {
  for (const instance of instances) writeFileSync(path(instance), source(instance))
  process.exit(0)
}

/** Runs a command and gives its whole output; stops this script where it fails. */
function output(command, args) {
  return new Promise((done) => {
    const child = spawn(command, args, { cwd: root })
    let text = ''
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (data) => {
        text += data
      })
    child.on('exit', (code) => {
      if (code === 0) return done(text)
      console.error(`${text}\n${command} ${args.join(' ')} failed`)
      process.exit(1)
    })
  })
}

/** A kernel's short name from its mangled one. */
function kernel(mangled) {
  const form = /forward_kernelI.*4FormE(\d)/.exec(mangled)
  if (form) return `forward ${['plain', 'loss', 'maps'][form[1]]}`
  const loss = /backward_kernelI.*ELb(\d)E/.exec(mangled)
  if (loss) return `backward ${['plain', 'loss'][loss[1]]}`
  if (/sum_loss/.test(mangled)) return 'sum loss'
  if (/sum_gradient/.test(mangled)) return 'sum gradient'
  return mangled
}

/** Registers and spills by arch and kernel, from `ptxas -v`. */
function resources(text) {
  const found = {}
  const pattern =
    /Compiling entry function '(\w+)' for 'sm_(\d+)'[\s\S]*?(\d+) bytes spill stores, (\d+) bytes spill loads[\s\S]*?Used (\d+) registers/g
  for (const [, name, arch, stores, loads, registers] of text.matchAll(pattern))
    found[arch] = { ...found[arch], [kernel(name)]: { registers: +registers, spills: +stores + +loads } }
  return found
}

/** Instructions by kernel, from the PTX; of the kernels that are gated. */
function instructions(ptx) {
  const found = {}
  for (const [, name, body] of ptx.matchAll(/\.entry (\w+)\(([\s\S]*?)\n\}/g)) {
    const count = (pattern) => (body.match(pattern) ?? []).length
    const counts = {
      'mma k16': count(/mma\.sync\.aligned\.m16n8k16/g),
      'mma k8': count(/mma\.sync\.aligned\.m16n8k8\./g),
      ldmatrix: count(/ldmatrix\.sync/g),
      'cp.async': count(/cp\.async\.cg/g),
      barriers: count(/bar(rier)?\.sync/g),
    }
    if (kernels.includes(kernel(name))) found[kernel(name)] = counts
  }
  return found
}

async function compile(instance) {
  const file = path(instance)
  const common = ['-std=c++20', '-O3', '-I', 'cuda']
  const codes = archs.map((arch) => `-gencode=arch=compute_${arch},code=sm_${arch}`)
  const object = join(folder, `${instance.name}.o`)
  const ptx = join(folder, `${instance.name}.ptx`)
  const text = await output('nvcc', [...common, ...codes, '-Xptxas', '-v', '-c', file, '-o', object])
  await output('nvcc', [...common, '-arch=compute_80', '-ptx', file, '-o', ptx])
  return { resources: resources(text), instructions: instructions(readFileSync(ptx, 'utf8')) }
}

/** Dynamic shared memory by kernel and head size, and each arch's limit: the kernels' own numbers. */
function sharedMemory() {
  const lines = headSizes.flatMap((d) => [
    ...['plain', 'loss', 'maps'].map((f) => `p("d${d}", "forward ${f}", ForwardShared<${d}, Form::${f}>::bytes);`),
    `p("d${d}", "backward plain", BackwardShared<${d}, false>::bytes);`,
    `p("d${d}", "backward loss", BackwardShared<${d}, true>::bytes);`,
  ])
  const program = join(folder, 'shared.cpp')
  writeFileSync(
    program,
    `#include <cstdio>\n#include "traits.h"\nusing namespace swap::cuda;\nvoid p(const char* d, const char* k, size_t n) { std::printf("%s\\t%s\\t%zu\\n", d, k, n); }\nint main() {\n${lines.join('\n')}\n}\n`,
  )
  run('nvcc', ['-std=c++20', '-I', 'cuda', program, '-o', join(folder, 'shared')], { quiet: true })
  const found = {}
  for (const line of run(join(folder, 'shared'), [], { quiet: true }).trim().split('\n')) {
    const [d, name, bytes] = line.split('\t')
    found[d] = { ...found[d], [name]: Number(bytes) }
  }
  return found
}

// CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": dynamic shared memory of a block;
// of a processor (each block takes 1 KB more); registers of a processor are 65,536 on all.
const limits = {
  80: { block: 166912, processor: 167936 },
  86: { block: 101376, processor: 102400 },
  89: { block: 101376, processor: 102400 },
  90: { block: 232448, processor: 233472 },
  100: { block: 232448, processor: 233472 },
  120: { block: 101376, processor: 102400 },
}
const threads = 128
/** Blocks that a processor can hold at a time. */
function resident(arch, registers, shared) {
  const ofRegisters = Math.floor(65536 / (Math.ceil(registers / 8) * 8 * threads))
  return Math.min(ofRegisters, Math.floor(limits[arch].processor / (shared + 1024)))
}

function markdown(gates) {
  const lines = [
    '# What nvcc makes of the kernels',
    '',
    'Written by `node scripts/cuda-gates.mjs --write`; `node scripts/cuda-gates.mjs` holds a build against it.',
    `Compiler: ${gates.compiler}. No kernel spills on any arch. *Blocks*: how many a processor can hold by registers`,
    'and shared memory, computed, of 128 threads each. Instructions are counted in the PTX: unrolled, of one pass over 64',
    'rows for a warp.',
  ]
  for (const name of kernels) {
    lines.push('', `## ${name}`, '')
    lines.push(
      `| | shared memory, bytes | ${allArchs.map((a) => `sm_${a} registers (blocks)`).join(' | ')} | mma k16 + k8 | ldmatrix |`,
      `| --- | --- | ${allArchs.map(() => '---').join(' | ')} | --- | --- |`,
    )
    for (const { name: instance, d } of instances) {
      const shared = gates.shared[`d${d}`][name]
      const cells = allArchs.map((arch) => {
        const registers = gates.registers[arch][instance][name]
        return `${registers} (${resident(arch, registers, shared)})`
      })
      const counts = gates.instructions[instance][name]
      lines.push(
        `| ${instance} | ${shared.toLocaleString('en')} | ${cells.join(' | ')} | ${counts['mma k16']} + ${counts['mma k8']} | ${counts.ldmatrix} |`,
      )
    }
  }
  return `${lines.join('\n')}\n`
}

if (!has('nvcc')) {
  console.warn('! nvcc is not here: the CUDA kernels were not compiled')
  process.exit(0)
}
mkdirSync(folder, { recursive: true })
const wrong = []
for (const instance of instances)
  if (!existsSync(path(instance)) || readFileSync(path(instance), 'utf8') !== source(instance))
    wrong.push(`${instance.name}.cu is not what --instances writes`)

const results = {}
const waiting = [...instances]
await Promise.all(
  Array.from({ length: Math.min(availableParallelism(), 4) }, async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) results[next.name] = await compile(next)
  }),
)
const gates = {
  compiler: /release [\d.]+, V([\d.]+)/.exec(spawnSync('nvcc', ['--version'], { encoding: 'utf8' }).stdout)?.[1],
  shared: sharedMemory(),
  instructions: Object.fromEntries(instances.map(({ name }) => [name, results[name].instructions])),
  registers: {},
}
// Every kernel that there must be, here and below, not those that were found.
for (const { name } of instances)
  for (const which of kernels)
    if (!gates.instructions[name][which]?.['mma k16']) wrong.push(`${name} ${which}: no mma in the PTX`)
for (const arch of archs) {
  gates.registers[arch] = {}
  for (const { name, d } of instances) {
    const used = results[name].resources[arch] ?? {}
    const registers = {}
    gates.registers[arch][name] = registers
    for (const which of kernels) {
      if (!used[which]) {
        wrong.push(`sm_${arch} ${name} ${which}: nvcc said nothing of it`)
        continue
      }
      registers[which] = used[which].registers
      const bytes = gates.shared[`d${d}`][which]
      if (bytes > limits[arch].block)
        wrong.push(`sm_${arch} ${name} ${which}: ${bytes} bytes of shared memory, ${limits[arch].block} allowed`)
    }
    for (const [which, { spills }] of Object.entries(used))
      if (spills) wrong.push(`sm_${arch} ${name} ${which}: spills ${spills} bytes`)
  }
}

if (flag('--write')) {
  if (!wrong.length) {
    writeFileSync(table, `${JSON.stringify(gates, null, 2)}\n`)
    writeFileSync(at('cuda', 'gates.md'), markdown(gates))
  }
} else {
  const committed = JSON.parse(readFileSync(table, 'utf8'))
  if (JSON.stringify(committed.shared) !== JSON.stringify(gates.shared))
    wrong.push('shared memory differs from gates.json')
  // Another compiler may take some more registers (a warp gets them in units of 8 a thread); spills stay forbidden.
  const margin = committed.compiler === gates.compiler ? 0 : 16
  for (const { name } of instances)
    for (const which of kernels) {
      const want = committed.instructions?.[name]?.[which]
      for (const [what, count] of Object.entries(gates.instructions[name][which] ?? {}))
        if (count !== want?.[what])
          wrong.push(`${name} ${which}: ${count} ${what} in the PTX, ${want?.[what]} committed`)
      for (const arch of archs) {
        const allowed = committed.registers?.[arch]?.[name]?.[which] + margin
        const registers = gates.registers[arch][name][which]
        // not `registers > allowed`: a number that is missing must fail too
        if (!(registers <= allowed))
          wrong.push(`sm_${arch} ${name} ${which}: ${registers} registers, ${allowed} allowed`)
      }
    }
}
if (wrong.length) {
  console.error(wrong.join('\n'))
  process.exit(1)
}
const most = Math.max(...archs.flatMap((a) => instances.flatMap(({ name }) => Object.values(gates.registers[a][name]))))
console.log(
  `\u2022 CUDA kernels for ${archs.map((a) => `sm_${a}`).join(', ')}: ${instances.length * kernels.length} compiled, no spills, at most ${most} registers`,
)
