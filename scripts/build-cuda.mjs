// `npm run build:cuda`: the engine for CUDA, build/Release/libswap_engine_cuda.so, beside the one for CPUs.
// Needs nvcc (the compiler and the runtime's headers, nothing else of the toolkit) and a CUDA build of LibTorch: the one
// in SWAP_LIBTORCH_CUDA, else the Python wheel of torch and its nvidia-* packages, about 2.5 GB, fetched once by pip into
// .cache/libtorch-cuda. SWAP_CUDA_ARCHS names fewer archs than all, e.g. 80.
// --tests: builds and runs the C++ tests of that build too; where there is a GPU they compute on it.
// --bench: builds and runs bench/attention of that build: on a GPU where there is one, else on the CPU.
// --check: compiles what meets LibTorch's CUDA against the headers of the CPU build, for CI; fetches and links nothing.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { at, fingerprint, has, once, root, run, say } from './common.mjs'

const site = at('.cache', 'libtorch-cuda')
const version = /LIBTORCH_VERSION = '([^']+)'/.exec(readFileSync(at('lib', 'libtorch', 'version.ts'), 'utf8'))[1]
const output = at('build', 'Release')

/** The folder of the runtime's headers. */
function runtimeHeaders() {
  const text = run('sh', ['-c', 'nvcc --dryrun -x cu -c /dev/null -o /dev/null 2>&1 || true'], { quiet: true })
  const top = /^#\$ TOP=(.*)$/m.exec(text)?.[1]
  return join(top ?? '/usr/local/cuda', 'include')
}

const pip = (...args) => run('python3', ['-m', 'pip', 'install', '--quiet', '--no-input', '--target', site, ...args])

/** torch's wheel and the packages of NVIDIA's that it asks for; none of its other requirements. */
async function fetchLibtorch() {
  await once('libtorch-cuda', existsSync(join(site, 'torch')) ? version : `${version} again`, () => {
    say(`LibTorch ${version} with CUDA, about 2.5 GB`)
    rmSync(site, { recursive: true, force: true })
    // `===` compares as text: a CPU build that lies nearer (2.13.0+cpu) is a higher version to `==`, and not this one.
    pip('--no-deps', `torch===${version}`)
    const info = readdirSync(site).find((name) => /^torch-.*\.dist-info$/.test(name))
    const needs = [...readFileSync(join(site, info, 'METADATA'), 'utf8').matchAll(/^Requires-Dist: (.*)$/gm)]
      .map(([, requirement]) => requirement.split(';')[0].trim())
      .filter((requirement) => /^(nvidia-|cuda-toolkit)/.test(requirement))
    pip(...needs)
  })
  return join(site, 'torch')
}

/** The folder of the CPU's LibTorch, which has the headers of c10/cuda too. */
function cpuLibtorch() {
  const cache = at('build', 'CMakeCache.txt')
  const named = existsSync(cache) && /^SWAP_LIBTORCH:\w+=(.+)$/m.exec(readFileSync(cache, 'utf8'))?.[1]
  return named || process.env.SWAP_LIBTORCH
}

async function check() {
  if (!has('nvcc')) return console.warn('! nvcc is not here: what launches the CUDA kernels was not compiled')
  const libtorch = cpuLibtorch()
  if (!libtorch) return console.warn('! LibTorch is not here: what launches the CUDA kernels was not compiled')
  const sources = [...readdirSync(at('cpp', 'cuda')).map((name) => `cpp/cuda/${name}`), 'cpp/attention/fused_cuda.cpp']
  sources.push('bench/attention/attention.cpp')
  await once(
    'cuda-glue',
    fingerprint(['cpp/cuda', 'cpp/attention', 'cpp/runtime', 'cuda', 'bench/attention'], libtorch),
    () => {
      for (const source of sources) {
        const system = [join(libtorch, 'include'), join(libtorch, 'include/torch/csrc/api/include'), runtimeHeaders()]
        const flags = [
          '-std=c++20',
          '-Wall',
          '-Wextra',
          '-Werror',
          '-fsyntax-only',
          '-DSWAP_CUDA',
          '-DSWAP_NO_CUDA_MACROS',
        ]
        run(process.env.CXX ?? 'g++', [...flags, '-Icpp', ...system.flatMap((folder) => ['-isystem', folder]), source])
      }
    },
  )
  say(
    `what launches the CUDA kernels compiles (${sources.join(', ')}); it was not linked: npm run build:cuda does that`,
  )
}

async function build() {
  if (!has('nvcc')) {
    console.error('nvcc is needed: install the CUDA toolkit (its compiler and runtime are enough)')
    process.exit(1)
  }
  const tests = process.argv.includes('--tests')
  const bench = process.argv.includes('--bench')
  const libtorch = process.env.SWAP_LIBTORCH_CUDA ?? (await fetchLibtorch())
  const archs = process.env.SWAP_CUDA_ARCHS
  const folder = at('build', 'cuda')
  mkdirSync(folder, { recursive: true })
  say('native build for CUDA')
  run('cmake', [
    ...['-S', root, '-B', folder, '-DCMAKE_BUILD_TYPE=Release', '-DSWAP_CUDA=ON'],
    ...[`-DSWAP_LIBTORCH=${libtorch}`, `-DSWAP_OUTPUT=${output}`, `-DSWAP_TESTS=${tests || bench ? 'ON' : 'OFF'}`],
    // A build of few archs before this one must not be remembered.
    archs ? `-DCMAKE_CUDA_ARCHITECTURES=${archs.replaceAll(',', ';')}` : '-UCMAKE_CUDA_ARCHITECTURES',
  ])
  const targets = ['swap_engine_cuda', ...(tests ? ['cpp_tests'] : []), ...(bench ? ['attention_bench'] : [])]
  run('cmake', ['--build', folder, '--target', ...targets, '--parallel', process.env.SWAP_JOBS ?? '2'])
  say(`${join(output, 'libswap_engine_cuda.so')}; to compute with it: SWAP_LIBTORCH=${libtorch}`)
  if (tests) run(join(folder, 'cpp_tests'), [])
  if (bench) run(join(folder, 'attention_bench'), [])
}

await (process.argv.includes('--check') ? check() : build())
