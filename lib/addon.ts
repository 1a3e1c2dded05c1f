/** The addon and the engine library: where they lie, and what is said when they do not. */
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { SwapError } from './errors.ts'
import type { NativeBinding } from './native.ts'
import { packageRoot } from './paths.ts'

/** `kEngineAbi` of cpp/engine.h that these sources were written against. */
export const NATIVE_ABI = 5

/** Platforms that prebuilds are made for. */
const PREBUILT = ['linux-x64']

/**
 * Finds the addon: `SWAP_NATIVE_BINDING` (a file), else a checkout's build, else the prebuild for this platform.
 *
 * @throws SwapError `SWAP_ENGINE_MISSING`
 */
export function findAddon(): string {
  const chosen = process.env.SWAP_NATIVE_BINDING
  if (chosen) {
    if (existsSync(chosen)) return resolve(chosen)
    throw new SwapError('SWAP_ENGINE_MISSING', `SWAP_NATIVE_BINDING names "${chosen}", which does not exist`, {
      hint: 'name the swap_native.node file, or unset the variable',
    })
  }
  const root = packageRoot()
  const built = join(root, 'build', 'Release', 'swap_native.node')
  if (existsSync(built)) return built
  try {
    const finder = createRequire(import.meta.url)('node-gyp-build') as { path(folder: string): string }
    return finder.path(root)
  } catch (cause) {
    const platform = `${process.platform}-${process.arch}`
    const checkout = existsSync(join(root, 'CMakeLists.txt'))
    throw new SwapError('SWAP_ENGINE_MISSING', `there is no build of the addon for ${platform} in "${root}"`, {
      hint: checkout
        ? 'run: npm run build'
        : `prebuilt for: ${PREBUILT.join(', ')} (glibc); elsewhere build from source`,
      cause,
    })
  }
}

/**
 * Loads the addon; a second call in the same environment gives the same one.
 *
 * @throws SwapError `SWAP_ENGINE_MISSING`; `SWAP_ENGINE_LOAD`: it is there but the system cannot load it;
 *   `SWAP_ENGINE_ABI`: it belongs to another version of this package
 */
export function loadAddon(): NativeBinding {
  const path = findAddon()
  let binding: NativeBinding
  try {
    binding = createRequire(import.meta.url)(path) as NativeBinding
  } catch (cause) {
    throw new SwapError('SWAP_ENGINE_LOAD', `the addon "${path}" cannot be loaded: ${firstLine(cause)}`, {
      hint: 'it needs 64-bit Linux with glibc; install the package again on this machine, or build it from source',
      cause,
    })
  }
  if (binding.abi !== NATIVE_ABI) {
    throw new SwapError('SWAP_ENGINE_ABI', `the addon "${path}" has ABI ${binding.abi}; ${NATIVE_ABI} is needed`, {
      hint: 'it is of another version of @swap/native: install the package again, or rebuild (npm run build)',
    })
  }
  return binding
}

/**
 * The engine library beside the addon. `SWAP_ENGINE_LIBRARY` names another one, for which no LibTorch is looked for.
 *
 * @throws SwapError `SWAP_ENGINE_MISSING`
 */
export function enginePath(folder: string, flavour: 'cpu' | 'cuda'): string {
  const chosen = engineOverride()
  const path = chosen ?? join(folder, libraryName(`swap_engine_${flavour}`))
  if (existsSync(path)) return path
  throw new SwapError('SWAP_ENGINE_MISSING', `the engine library "${path}" does not exist`, {
    hint: chosen ? 'check SWAP_ENGINE_LIBRARY' : 'install the package again, or build it: npm run build',
  })
}

/** True where the package was built with an engine of that flavour. */
export function hasEngine(folder: string, flavour: 'cpu' | 'cuda'): boolean {
  return existsSync(join(folder, libraryName(`swap_engine_${flavour}`)))
}

/** The engine library that `SWAP_ENGINE_LIBRARY` names. */
export function engineOverride(): string | undefined {
  const path = process.env.SWAP_ENGINE_LIBRARY
  return path ? resolve(path) : undefined
}

/** The folder that the addon lies in, and the engine libraries with it. */
export function addonFolder(): string {
  return dirname(findAddon())
}

function libraryName(name: string): string {
  if (process.platform === 'win32') return `${name}.dll`
  return process.platform === 'darwin' ? `lib${name}.dylib` : `lib${name}.so`
}

function firstLine(error: unknown): string {
  return String(error instanceof Error ? error.message : error).split('\n')[0] ?? ''
}
