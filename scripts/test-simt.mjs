// `node scripts/test-simt.mjs`: the CUDA kernels on the emulator (test/simt/README.md), without a GPU and without nvcc:
// the cases plainly and under ThreadSanitizer and AddressSanitizer, then planted bugs, each of which must be seen by the
// checks that are there for it. Ten minutes at most, building included.
// --long: also the sweep over all sizes, however long it takes.
// --gpu: the same cases on a GPU, built by nvcc; says so where there is none.
import { spawn } from 'node:child_process'
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

const environment = {
  TSAN_OPTIONS: 'exitcode=66 halt_on_error=1 report_signal_unsafe=0',
  ASAN_OPTIONS: 'exitcode=67',
  ...(long ? { SWAP_SIMT_LONG: '1' } : {}),
}

const children = new Set()

/** Runs a command in the repository: how it ended, and all it printed. */
function ended(command, args) {
  return new Promise((done, fail) => {
    const child = spawn(command, args, { cwd: root, env: { ...process.env, ...environment } })
    children.add(child)
    let text = ''
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (data) => {
        text += data
      })
    child.on('error', fail).on('close', (status, signal) => {
      children.delete(child)
      done({ status, signal, text: text.trim() })
    })
  })
}

/** Ends this script and what it has started. */
function stop(why) {
  for (const child of children) child.kill('SIGKILL')
  console.error(`\n${why}`)
  process.exit(1)
}

/** Runs a command, prints what it printed, and stops this script where it fails. */
async function must(command, args, title) {
  const { status, signal, text } = await ended(command, args)
  if (title) say(title)
  if (text) console.log(text)
  if (status !== 0) stop(`${command} ${args.join(' ')} failed (${status ?? signal})`)
}

/** The results of tasks that are started in their order, as many at a time as there are cores. */
async function pool(tasks) {
  const results = []
  let next = 0
  const worker = async () => {
    while (next < tasks.length) {
      const i = next++
      results[i] = await tasks[i]()
    }
  }
  await Promise.all(Array.from({ length: Math.min(availableParallelism(), 4) }, worker))
  return results
}
const all = (commands) => pool(commands.map((command) => () => must(...command)))

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

/** The names in cuda/plant.cuh, in their order; the first is `none`. */
function plants() {
  const body = /enum class Plant : int \{([^}]*)\}/.exec(readFileSync(at('cuda', 'plant.cuh'), 'utf8'))[1]
  return [...body.replaceAll(/\/\/.*/g, '').matchAll(/\w+/g)].map(([name]) => name)
}

// What each planted bug must be seen by, no less and no more, and for which head sizes (K_r and V take turns for wide
// heads only, and only there have the kernels the barriers in between):
//   NaN       something was read that nothing had been written to; found, as the next two, in the results, under the
//             first of the six schedules that shows it
//   error     further from fp64 than twice the plain version, or not the same in every form
//   guard     something was written beside a tensor
//   unlanded  the emulator stopped at a thread that ended before its copies had landed
//   race      ThreadSanitizer reports one
//   bounds    AddressSanitizer reports an access beside a tensor or beside shared memory
const every = [32, 40, 64, 80, 160]
const wide = [80, 160]
const catches = {
  none: [every],
  forward_no_barrier_after_copies: [every, 'NaN', 'race'],
  forward_no_barrier_before_v: [wide, 'error', 'race'],
  forward_no_barrier_after_v: [wide, 'error', 'race'],
  forward_no_barrier_before_next_tile: [every, 'error', 'race'],
  forward_no_barrier_before_sum: [every, 'NaN', 'race'],
  backward_no_barrier_after_copies: [every, 'NaN', 'race'],
  backward_no_barrier_before_v: [wide, 'error', 'race'],
  backward_no_barrier_after_v: [wide, 'error', 'race'],
  backward_no_barrier_before_maps: [wide, 'error', 'race'],
  backward_no_barrier_before_products: [every, 'NaN', 'race'],
  backward_no_barrier_before_next_tile: [every, 'error', 'race'],
  no_wait: [every, 'unlanded'],
  row_past_the_end: [every, 'guard', 'bounds'],
  row_short: [every, 'error'],
  unset_token_tail: [every, 'NaN'],
  token_past_the_end: [every, 'error'],
  racing_loss: [every, 'race'],
}

/** What a run with a planted bug shows, in the words of `catches`. */
async function sight(folder, ...args) {
  const { status, signal, text } = await ended(join(folder, 'simt_plants'), args.map(String))
  if (status === 0) return []
  if (status === 66) return ['race']
  if (status === 67) return ['bounds']
  if (/ended before its asynchronous copies/.test(text)) return ['unlanded']
  return [text.split('\n')[0] || `ended with ${status ?? signal}`]
}

/** Every planted bug, every head size, every build: `catches` must say what comes out. */
async function plantedBugs(folders) {
  say('planted bugs: each must be seen, by the checks that are there for it')
  const names = plants()
  if (names.join() !== Object.keys(catches).join()) stop('scripts/test-simt.mjs and cuda/plant.cuh list other plants')
  const runs = names.flatMap((name, number) => every.map((headSize) => ({ name, number, headSize })))
  const look = async ({ name, number, headSize }) => {
    const seen = [
      await sight(folders.plain, number, headSize),
      await sight(folders.thread, number, headSize, 'quick'),
      await sight(folders.address, number, headSize, 'quick'),
    ]
    const got = [...new Set(seen.flat())].join(', ') || 'nothing'
    const [headSizes, ...words] = catches[name]
    const want = (headSizes.includes(headSize) && words.join(', ')) || 'nothing'
    return got === want ? [] : [`${name}, d = ${headSize}: ${got} seen, ${want} expected`]
  }
  const wrong = (await pool(runs.map((run) => () => look(run)))).flat()
  if (wrong.length) stop(wrong.join('\n'))
  for (const [name, [headSizes, ...words]] of Object.entries(catches))
    console.log(`  ${name.padEnd(37)} d = ${headSizes.join(', ').padEnd(19)} ${words.join(', ') || '-'}`)
}

/** Lanes that hand something on in shared memory with only a shuffle in between are a race: see that it is seen. */
async function shuffleOrdersNothing(folder) {
  const { status } = await ended(join(folder, 'simt_tests'), ['-tc=a shuffle orders no memory', '--no-skip'])
  if (status !== 66) stop(`ThreadSanitizer takes a shuffle for a barrier (ended with ${status})`)
}

async function emulated() {
  if (!has(compiler)) stop(`${compiler} is needed to build the emulated kernels`)
  const minutes = 10
  if (!long) setTimeout(() => stop(`the emulator took more than ${minutes} minutes`), minutes * 60_000).unref()
  const folders = { plain: await build('plain'), thread: await build('thread'), address: await build('address') }
  const test = (name, title, filter) => () =>
    must(join(folders[name], 'simt_tests'), filter && !long ? [`-tc=${filter}`] : [], title)
  await pool([
    test('plain', 'cases, six schedules, limits, bank conflicts'),
    test('thread', 'races: ThreadSanitizer', 'every head size*,1 to 80*,barriers hold*'),
    test(
      'address',
      'bounds: AddressSanitizer, UndefinedBehaviorSanitizer',
      'every head size*,any number of rows*,1 to 80*,a copy lands*',
    ),
  ])
  await shuffleOrdersNothing(folders.thread)
  await plantedBugs(folders)
  say(`the emulator took ${(performance.now() / 60_000).toFixed(1)} minutes`)
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
