/** What this machine has and what it lacks, for `swap doctor`. */

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { stat, statfs } from 'node:fs/promises'
import { availableParallelism, cpus, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { addonFolder, engineOverride, enginePath, findAddon, hasEngine } from '../addon.ts'
import { chooseEngine, hasGpuDriver, wantedFlavour } from '../device.ts'
import { readModel } from '../model/index.ts'
import { packageRoot } from '../paths.ts'
import { cacheFolder } from './cache.ts'
import { lookForLibtorch, type Place, preferCuda } from './find.ts'
import { LIBTORCH_VERSION } from './version.ts'

/** One thing that was looked at. */
export interface Check {
  name: 'node' | 'libtorch' | 'engine' | 'device' | 'cpu' | 'model' | 'disk'
  /** `bad` keeps pictures from being made; `warn` is worth knowing. */
  status: 'ok' | 'warn' | 'bad'
  /** What was found, in words. */
  found: string
  /** Each place looked at and what was there. */
  details: string[]
  /** What to do about it. */
  hint?: string | undefined
}

/** What is said when the engine was loaded in a process of its own. */
export interface Probe {
  ok: boolean
  message: string
  hint?: string | undefined
}

/** Loads LibTorch and the engine in this process; `swap doctor` runs it in another one, which may die of it. */
export async function probeEngine(): Promise<Probe> {
  const { loadAddon } = await import('../addon.ts')
  const { findLibtorch } = await import('./find.ts')
  try {
    const gpu = hasGpuDriver()
    const libtorch = engineOverride() ? undefined : await findLibtorch({ prefer: wantedFlavour('auto', gpu) })
    const [choice] = chooseEngine('auto', libtorch, addonFolder(), gpu)
    const { device, ...paths } = choice!
    const engine = loadAddon().createEngine(paths)
    await engine.close()
    return { ok: true, message: device === 'cpu' ? 'the engine loads' : 'the engine for CUDA loads' }
  } catch (error) {
    const { message, hint } = error as Error & { hint?: string }
    return { ok: false, message, hint }
  }
}

function checkNode(): Check {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  const recent = major > 20 || (major === 20 && minor >= 9)
  return {
    name: 'node',
    status: recent ? 'ok' : 'bad',
    found: `Node ${process.versions.node}, ${process.platform} ${process.arch}`,
    details: [],
    hint: recent ? undefined : 'install Node 20.9 or later',
  }
}

function checkLibtorch(places: Place[]): Check {
  const used = hasGpuDriver() ? preferCuda(places) : places.find((place) => place.usable)
  const named = places.find((place) => place.source === 'SWAP_LIBTORCH' && place.path)
  const refused = named && !named.usable
  const bad = !used?.usable || refused
  return {
    name: 'libtorch',
    status: bad ? 'bad' : 'ok',
    found: bad
      ? refused
        ? `SWAP_LIBTORCH is ${named.path}: ${named.note}`
        : `LibTorch ${LIBTORCH_VERSION} is not on this machine`
      : `LibTorch ${used.found!.version} (${used.found!.flavour}) at ${used.found!.root}`,
    details: places.map(({ source, path, note }) => `${PLACES[source]}: ${path ? `${path}: ` : ''}${note}`),
    hint: bad ? (refused ? 'unset SWAP_LIBTORCH or correct it' : 'run `npx swap setup`') : undefined,
  }
}

const PLACES: Record<Place['source'], string> = {
  SWAP_LIBTORCH: 'SWAP_LIBTORCH',
  cache: 'cache of `swap setup`',
  python: "Python's torch",
}

async function checkEngine(probe: () => Promise<Probe>, libtorchIsThere: boolean): Promise<Check> {
  const check = { name: 'engine' as const, details: [] as string[] }
  try {
    check.details.push(`addon: ${findAddon()}`, `engine: ${enginePath(addonFolder(), 'cpu')}`)
  } catch (error) {
    const { message, hint } = error as Error & { hint?: string }
    return { ...check, status: 'bad', found: message, hint }
  }
  if (!libtorchIsThere && !engineOverride())
    return { ...check, status: 'warn', found: 'there, but not tried: LibTorch is missing' }
  const { ok, message, hint } = await probe()
  return { ...check, status: ok ? 'ok' : 'bad', found: message, hint }
}

/** What a GPU needs, as it was found. */
export interface GpuParts {
  /** NVIDIA's driver is there. */
  driver: boolean
  /** What its tool lists: name and driver version. */
  gpus: string[]
  /** The package has an engine for CUDA. */
  engine: boolean
}

/** On what pictures will be computed, and why not on a GPU. */
export function checkDevice(places: Place[], { driver, gpus, engine }: GpuParts): Check {
  const present = driver || gpus.length > 0
  const named = places.find(({ source, path }) => source === 'SWAP_LIBTORCH' && path)
  const libtorch = (present ? preferCuda(places) : places.find(({ usable }) => usable))?.found
  const cuda = libtorch?.flavour === 'cuda' && libtorch.version === LIBTORCH_VERSION
  const complete = cuda && libtorch.missing.length === 0
  const details = [
    gpus.length > 0
      ? `NVIDIA: ${gpus.join('; ')}`
      : driver
        ? "NVIDIA's driver is here, but nvidia-smi lists no GPU"
        : 'no NVIDIA driver (nvidia-smi does not answer)',
  ]
  if (!cuda) details.push('the LibTorch that is used is a CPU build')
  else if (!complete) details.push(`the CUDA LibTorch lacks ${libtorch.missing.join(', ')} beside it`)
  if (!engine) details.push('this package has no CUDA engine for this platform')
  const ready = present && complete && engine
  let hint: string | undefined
  if (present && !engine) hint = 'build it from source with nvcc: npm run build:cuda'
  else if (present && !cuda)
    hint = named
      ? 'SWAP_LIBTORCH names a CPU build: name a CUDA build, or unset it'
      : `\`pip install torch==${LIBTORCH_VERSION}\` brings a LibTorch with CUDA, which is then found by itself; or name one in SWAP_LIBTORCH`
  else if (present && !complete) hint = `let pip install all of it: \`pip install torch==${LIBTORCH_VERSION}\``
  return { name: 'device', status: present && !ready ? 'warn' : 'ok', found: ready ? 'cuda' : 'cpu', details, hint }
}

function gpuParts(): GpuParts {
  const list = spawnSync('nvidia-smi', ['--query-gpu=name,driver_version', '--format=csv,noheader'], {
    encoding: 'utf8',
    timeout: 10_000,
    windowsHide: true,
  })
  const gpus = list.status === 0 ? list.stdout.trim().split('\n').filter(Boolean) : []
  return { driver: hasGpuDriver(), gpus, engine: hasCudaEngine() }
}

function hasCudaEngine(): boolean {
  try {
    return hasEngine(addonFolder(), 'cuda')
  } catch {
    return false
  }
}

/** Features that decide how fast the CPU multiplies matrices. */
const FEATURES = [
  'avx2',
  'fma',
  'f16c',
  'avx512f',
  'avx512_vnni',
  'avx512_bf16',
  'avx512_fp16',
  'amx_bf16',
  'asimd',
  'bf16',
  'sve',
]

function checkCpu(): Check {
  let flags = ''
  try {
    flags = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? ''
  } catch {
    // Not Linux: the model's name has to do.
  }
  const has = new Set(flags.split(' '))
  const features = FEATURES.filter((feature) => has.has(feature))
  const old = process.arch === 'x64' && flags !== '' && !has.has('avx2')
  return {
    name: 'cpu',
    status: old ? 'warn' : 'ok',
    found: `${cpus()[0]?.model.trim() ?? process.arch}, ${availableParallelism()} threads, ${Math.round(totalmem() / 2 ** 30)} GiB of memory`,
    details: features.length > 0 ? [features.join(' ')] : [],
    hint: old ? 'without AVX2 it will be slow' : undefined,
  }
}

async function checkModel(): Promise<Check> {
  const check = { name: 'model' as const, details: [join(packageRoot(), 'models', 'mini')] }
  try {
    const { name, resolution, tensors } = await readModel('mini')
    const bytes = tensors.reduce((sum, { begin, end }) => sum + end - begin, 0)
    return { ...check, status: 'ok', found: `${name}: ${resolution} px, ${Math.round(bytes / 1e6)} MB` }
  } catch (error) {
    return { ...check, status: 'bad', found: (error as Error).message, hint: 'install the package again' }
  }
}

async function checkDisk(): Promise<Check> {
  const cache = cacheFolder()
  let folder = cache
  while (!(await stat(folder).catch(() => undefined)) && folder !== dirname(folder)) folder = dirname(folder)
  const { bavail, bsize } = await statfs(folder)
  const free = bavail * bsize
  return {
    name: 'disk',
    status: free < 2e9 ? 'warn' : 'ok',
    found: `${(free / 1e9).toFixed(1)} GB free at ${cache}`,
    details: [],
    hint: free < 2e9 ? 'LibTorch takes about 1 GB while it is set up; SWAP_CACHE names another folder' : undefined,
  }
}

/** Looks at all of it. */
export async function diagnose(probe: () => Promise<Probe> = probeEngine): Promise<Check[]> {
  const places = await lookForLibtorch()
  const libtorch = checkLibtorch(places)
  return [
    checkNode(),
    libtorch,
    await checkEngine(probe, libtorch.status === 'ok'),
    checkDevice(places, gpuParts()),
    checkCpu(),
    await checkModel(),
    await checkDisk(),
  ]
}
