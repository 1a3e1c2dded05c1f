/** What lies in a folder that may hold LibTorch: version, flavour, and which libraries to load in which order. */

import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'

/** A copy of LibTorch on disk, of whatever version. */
export interface Installation {
  /** The folder that holds `lib/`. */
  root: string
  /** As it names itself, without the build's suffix (`2.13.0`, not `2.13.0+cpu`). */
  version: string
  /** `cuda` where the CUDA libraries lie beside the others. */
  flavour: 'cpu' | 'cuda'
  /** Full paths in load order, all that the flavour needs. */
  libraries: string[]
  /** Full paths in load order of what computing on the CPU needs; the same as `libraries` in a CPU build. */
  cpuLibraries: string[]
  /** Names of libraries that LibTorch asks for and that lie nowhere near it. */
  missing: string[]
}

interface Names {
  core: string
  cpu: string
  cuda: string[]
  openmp: RegExp
}

const NAMES: Record<string, Names> = {
  linux: {
    core: 'libc10.so',
    cpu: 'libtorch_cpu.so',
    cuda: ['libc10_cuda.so', 'libtorch_cuda.so'],
    openmp: /^libgomp(-[0-9a-f]+)?\.so(\.\d+)*$/,
  },
  darwin: { core: 'libc10.dylib', cpu: 'libtorch_cpu.dylib', cuda: [], openmp: /^lib(omp|iomp5)\.dylib$/ },
  win32: {
    core: 'c10.dll',
    cpu: 'torch_cpu.dll',
    cuda: ['c10_cuda.dll', 'torch_cuda.dll'],
    openmp: /^libiomp5md\.dll$/,
  },
}

/** Libraries of CUDA that even `libtorch_cpu` of a CUDA build asks for. */
const CUDA_OF_CPU = ['libcudart.so', 'libcupti.so']

async function entries(folder: string): Promise<string[]> {
  try {
    return (await readdir(folder)).sort()
  } catch {
    return []
  }
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile()
  } catch {
    return false
  }
}

async function text(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch {
    return ''
  }
}

/** The version with its build's suffix, from whichever file of the distribution says it; undefined when none does. */
async function readVersion(root: string): Promise<string | undefined> {
  const build = (await text(join(root, 'build-version'))).trim()
  if (/^\d+\.\d+/.test(build)) return build
  const python = /^__version__\s*=\s*['"]([^'"]+)['"]/m.exec(await text(join(root, 'version.py')))
  if (python) return python[1]
  for (const header of ['include/torch/headeronly/version.h', 'include/torch/csrc/api/include/torch/version.h']) {
    const source = await text(join(root, header))
    const parts = ['MAJOR', 'MINOR', 'PATCH'].map(
      (part) => new RegExp(`#define\\s+TORCH_VERSION_${part}\\s+(\\d+)`).exec(source)?.[1],
    )
    if (parts.every((part) => part !== undefined)) return parts.join('.')
  }
  return undefined
}

/** Folders beside LibTorch where wheels keep what it needs: `torch.libs`, `nvidia/<package>/lib`. */
async function siblingFolders(root: string): Promise<string[]> {
  const site = dirname(root)
  const folders = [join(site, 'torch.libs')]
  for (const name of await entries(join(site, 'nvidia'))) folders.push(join(site, 'nvidia', name, 'lib'))
  return folders
}

/** The first file in the folders whose name matches. */
async function findLibrary(folders: string[], matches: (name: string) => boolean): Promise<string | undefined> {
  for (const folder of folders) {
    const name = (await entries(folder)).find(matches)
    if (name) return join(folder, name)
  }
  return undefined
}

/**
 * Looks at a folder: LibTorch's own (with `lib/` in it), a Python torch's (`site-packages/torch`), or the
 * folder above or below one of these. Resolves to undefined where there is no LibTorch for this platform.
 */
export async function inspectLibtorch(
  folder: string,
  platform: string = process.platform,
): Promise<Installation | undefined> {
  const names = NAMES[platform]
  if (!names) return undefined
  const given = resolve(folder)
  const candidates = [given, join(given, 'libtorch'), join(given, 'torch')]
  if (basename(given) === 'lib') candidates.push(dirname(given))
  for (const root of candidates) {
    const lib = join(root, 'lib')
    if (!(await isFile(join(lib, names.cpu))) || !(await isFile(join(lib, names.core)))) continue
    const version = (await readVersion(root))?.replace(/\+.*$/, '') ?? 'unknown'
    const siblings = await siblingFolders(root)
    const folders = [lib, ...siblings]
    const present = new Set(await entries(lib))
    const flavour = names.cuda.length > 0 && names.cuda.every((name) => present.has(name)) ? 'cuda' : 'cpu'

    const first: string[] = []
    const missing: string[] = []
    // By full path and before LibTorch, so that its own DT_NEEDED finds the copy that is already loaded.
    const openmp = await findLibrary(folders, (name) => names.openmp.test(name))
    if (openmp) first.push(openmp)
    if (flavour === 'cuda' && platform === 'linux') {
      for (const name of CUDA_OF_CPU) {
        const found = await findLibrary(folders, (file) => file.startsWith(`${name}.`))
        if (found) first.push(found)
        else missing.push(name)
      }
    }
    const cpuLibraries = [...first, join(lib, names.core), join(lib, names.cpu)]
    const cuda = flavour === 'cuda' ? names.cuda.map((name) => join(lib, name)) : []
    return { root, version, flavour, libraries: [...cpuLibraries, ...cuda], cpuLibraries, missing }
  }
  return undefined
}
