// `node scripts/test-simt.mjs`: the CUDA kernels on the emulator (test/simt/README.md), without a GPU and without nvcc:
// the cases, then planted bugs, then both again under ThreadSanitizer and AddressSanitizer.
// --long: also the sweep over all sizes. --gpu: the same cases on a GPU, built by nvcc; says so where there is none.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { basename, join } from 'node:path'
import { at, fingerprint, has, once, root, run, say } from './common.mjs'

const long = process.argv.includes('--long')
const compiler = process.env.CXX ?? 'g++'
const list = (folder, suffix) =>
  readdirSync(at(folder))
    .filter((name) => name.endsWith(suffix))
    .sort()
    .map((name) => join(folder, name))
const kernels = list('cuda/instances', '.cu')
const emulator = ['block', 'warp', 'memory', 'emulated'].map((name) => `test/simt/${name}.cpp`)
const cases = ['test/simt/case.cpp', 'test/simt/reference.cpp', 'cuda/launch.cpp']
const includes = ['-I', 'cuda', '-I', 'test', '-I', 'test/simt']
const warnings = ['-Wall', '-Wextra', '-Wno-unknown-pragmas'] // #pragma unroll

// ThreadSanitizer must see the kernels' accesses and not the emulator's own: only kernels are instrumented. The
// emulator's tests launch kernels of their own and are instrumented with them.
const builds = {
  plain: { every: ['-O2'], kernels: [], link: [] },
  thread: { every: ['-O2', '-g', '-DSIMT_TSAN'], kernels: ['-fsanitize=thread'], link: ['-fsanitize=thread'] },
  address: {
    every: ['-O1', '-g', '-DSIMT_ASAN', '-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
    kernels: [],
    link: ['-fsanitize=address,undefined'],
  },
}

/** Runs commands, as many at a time as there are cores, and stops this script where one fails. */
async function all(commands) {
  const waiting = [...commands]
  const worker = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) {
      const [command, args] = next
      const code = await new Promise((done) =>
        spawn(command, args, { cwd: root, stdio: 'inherit' }).on('error', done).on('exit', done),
      )
      if (code !== 0) {
        console.error(`\n${command} ${args.join(' ')} failed (${code})`)
        process.exit(1)
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(availableParallelism(), 4) }, worker))
}

/** Builds simt_tests and simt_plants in build/simt/NAME. */
async function build(name) {
  const { every, kernels: instrument, link } = builds[name]
  const folder = at('build', 'simt', name)
  const key = fingerprint(
    ['cuda', 'test/simt', 'test/cpp/attention_shapes.h'],
    JSON.stringify([compiler, builds[name], warnings]),
  )
  await once(`simt-${name}`, existsSync(join(folder, 'simt_plants')) ? key : `${key} again`, async () => {
    say(`building the emulated kernels (${name})`)
    mkdirSync(folder, { recursive: true })
    const object = (file) => join(folder, `${basename(file)}.o`)
    const tests = [...list('test/simt', '_test.cpp'), 'test/simt/main.cpp']
    const compile = (file) => {
      const flags = kernels.includes(file) || file.endsWith('emulator_test.cpp') ? instrument : []
      return [
        compiler,
        ['-std=c++20', ...every, ...flags, ...warnings, ...includes, '-x', 'c++', '-c', file, '-o', object(file)],
      ]
    }
    const shared = [...kernels, ...emulator, ...cases]
    await all([...shared, ...tests, 'test/simt/plants.cpp'].map(compile))
    const program = (name, files) => [compiler, [...link, '-o', join(folder, name), ...files.map(object), '-pthread']]
    await all([
      program('simt_tests', [...shared, ...tests]),
      program('simt_plants', [...shared, 'test/simt/plants.cpp']),
    ])
  })
  return folder
}

const environment = {
  TSAN_OPTIONS: 'exitcode=66 halt_on_error=1 report_signal_unsafe=0',
  ASAN_OPTIONS: 'exitcode=67',
  ...(long ? { SWAP_SIMT_LONG: '1' } : {}),
}

/** Runs the tests; `filter` is doctest's list of test cases. */
function test(folder, filter) {
  run(join(folder, 'simt_tests'), filter ? [`-tc=${filter}`] : [], { env: environment })
}

/** The names in cuda/plant.cuh, in their order; the first is `none`. */
function plants() {
  const body = /enum class Plant : int \{([^}]*)\}/.exec(readFileSync(at('cuda', 'plant.cuh'), 'utf8'))[1]
  return [...body.replaceAll(/\/\/.*/g, '').matchAll(/\w+/g)].map(([name]) => name)
}

/** What saw the planted bug, or undefined. */
function seen(folder, number, ...more) {
  const result = spawnSync(join(folder, 'simt_plants'), [String(number), ...more], {
    encoding: 'utf8',
    env: { ...process.env, ...environment },
  })
  if (result.error) throw result.error
  if (result.status === 0) return undefined
  if (result.status === 10) return result.stdout.trim()
  if (result.status === 66) return 'race (ThreadSanitizer)'
  if (result.status === 67) return 'bounds (AddressSanitizer)'
  return (result.stderr || result.stdout).trim().split('\n')[0] || `ended with ${result.status ?? result.signal}`
}

async function emulated() {
  if (!has(compiler)) {
    console.error(`${compiler} is needed to build the emulated kernels`)
    process.exit(1)
  }
  const plain = await build('plain')
  const thread = await build('thread')
  const address = await build('address')

  say('cases, six schedules, limits, bank conflicts')
  test(plain)
  say('races: ThreadSanitizer')
  test(thread, long ? undefined : 'every head size*,1 to 80*,barriers hold*')
  say('bounds: AddressSanitizer, UndefinedBehaviorSanitizer')
  test(address, long ? undefined : 'every head size*,any number of rows*,1 to 80*,a copy lands*')

  say('planted bugs: each must be seen')
  const rows = plants().map((name, number) => ({
    name,
    plain: name === 'racing_loss' ? undefined : seen(plain, number),
    thread: seen(thread, number, 'quick'),
    address: name === 'none' || name === 'row_past_the_end' ? seen(address, number, 'quick') : undefined,
  }))
  for (const row of rows) {
    const what = [row.plain, row.thread, row.address].filter(Boolean)
    console.log(`  ${row.name.padEnd(30)} ${what.length ? what.join('; ') : '-'}`)
  }
  const [none, ...bugs] = rows
  const missed = bugs.filter((row) => !row.plain && !row.thread && !row.address)
  if (none.plain || none.thread || none.address) throw new Error('something is seen without a planted bug')
  if (missed.length) throw new Error(`not seen: ${missed.map((row) => row.name).join(', ')}`)
  if (!rows.find((row) => row.name === 'racing_loss').thread?.includes('race'))
    throw new Error('the race was not seen as one')
}

async function onGpu() {
  if (!has('nvcc')) return console.warn('! nvcc is not here: the cases were not run on a GPU')
  const folder = at('build', 'simt', 'gpu')
  mkdirSync(folder, { recursive: true })
  const sources = [
    ...kernels,
    ...cases,
    'test/simt/gpu.cu',
    'test/simt/attention_test.cpp',
    'test/simt/limits_test.cpp',
  ]
  const object = (file) => join(folder, `${basename(file)}.o`)
  const arch = process.env.SWAP_CUDA_ARCH ?? (has('nvidia-smi', ['-L']) ? 'native' : 'sm_80')
  const flags = ['-std=c++20', '-O3', `-arch=${arch}`, ...includes]
  await all([...sources, 'test/simt/main.cpp'].map((file) => ['nvcc', [...flags, '-c', file, '-o', object(file)]]))
  await all([['nvcc', ['-o', join(folder, 'gpu_tests'), ...[...sources, 'test/simt/main.cpp'].map(object)]]])
  if (!has('nvidia-smi', ['-L'])) return console.warn('! there is no GPU here: the cases were built for one, not run')
  run(join(folder, 'gpu_tests'), [], { env: environment })
}

await (process.argv.includes('--gpu') ? onGpu() : emulated())
