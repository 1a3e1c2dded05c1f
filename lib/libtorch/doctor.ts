/** What this machine has and what it lacks, for `swap doctor`. */

import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { stat, statfs } from 'node:fs/promises'
import { availableParallelism, cpus, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { addonFolder, engineOverride, enginePath, findAddon } from '../addon.ts'
import { readModel } from '../model/index.ts'
import { packageRoot } from '../paths.ts'
import { cacheFolder } from './cache.ts'
import { lookForLibtorch, type Place } from './find.ts'
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
    const libtorch = engineOverride() ? undefined : await findLibtorch()
    const engine = loadAddon().createEngine({
      libraries: libtorch?.libraries ?? [],
      engine: enginePath(addonFolder(), libtorch?.flavour ?? 'cpu'),
    })
    await engine.close()
    return { ok: true, message: 'the engine loads' }
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
  const used = places.find((place) => place.usable)
  const named = places.find((place) => place.source === 'SWAP_LIBTORCH' && place.path)
  const refused = named && !named.usable
  const bad = !used || refused
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

function checkDevice(places: Place[]): Check {
  const details: string[] = []
  const gpu = spawnSync('nvidia-smi', ['--query-gpu=name,driver_version', '--format=csv,noheader'], {
    encoding: 'utf8',
    timeout: 10_000,
    windowsHide: true,
  })
  const gpus = gpu.status === 0 ? gpu.stdout.trim().split('\n').filter(Boolean) : []
  details.push(gpus.length > 0 ? `NVIDIA: ${gpus.join('; ')}` : 'no NVIDIA GPU or driver (nvidia-smi does not answer)')
  const cuda = places.find((place) => place.usable)?.found?.flavour === 'cuda'
  if (!cuda) details.push('the LibTorch that is used is a CPU build')
  const engine = hasCudaEngine()
  if (!engine) details.push('this package has no CUDA engine for this platform')
  const ready = gpus.length > 0 && cuda && engine
  return {
    name: 'device',
    status: gpus.length > 0 && !ready ? 'warn' : 'ok',
    found: ready ? 'cuda' : 'cpu',
    details,
    hint: gpus.length > 0 && engine && !cuda ? 'name a LibTorch with CUDA in SWAP_LIBTORCH' : undefined,
  }
}

function hasCudaEngine(): boolean {
  try {
    return existsSync(enginePath(addonFolder(), 'cuda'))
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
    checkDevice(places),
    checkCpu(),
    await checkModel(),
    await checkDisk(),
  ]
}
