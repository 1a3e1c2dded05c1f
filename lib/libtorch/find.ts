/** Where LibTorch comes from, in order: `SWAP_LIBTORCH`, the cache of `swap setup`, an installed Python torch. */

import { execFile } from 'node:child_process'
import { SwapError } from '../errors.ts'
import { cachedLibtorch, cacheFolder } from './cache.ts'
import { type Installation, inspectLibtorch } from './inspect.ts'
import { LIBTORCH_VERSION } from './version.ts'

export type LibTorchSource = 'SWAP_LIBTORCH' | 'cache' | 'python'

/** The LibTorch that will be loaded. */
export interface LibTorch extends Installation {
  source: LibTorchSource
}

/** One place that was looked at, and what was there. */
export interface Place {
  source: LibTorchSource
  /** The folder; undefined where there is none to look at (a variable that is not set, a Python without torch). */
  path: string | undefined
  found: Installation | undefined
  /** True when `found` is of the version that the engine needs. */
  usable: boolean
  /** In words, for `swap doctor`. */
  note: string
}

export interface FindOptions {
  env?: NodeJS.ProcessEnv
  /** Pythons to ask for their torch, in order. */
  pythons?: string[]
  /** `'cuda'`: a LibTorch with CUDA before one without, wherever it lies. Default: the first that is found. */
  prefer?: 'cpu' | 'cuda' | undefined
}

const SETUP_HINT = 'run `npx swap setup`, or set SWAP_LIBTORCH to a folder with LibTorch'

/** `site-packages/torch` of an interpreter; does not import torch, which takes seconds. */
function pythonTorch(python: string, env: NodeJS.ProcessEnv): Promise<string | undefined> {
  const program =
    'import importlib.util as u; s = u.find_spec("torch"); print((s and list(s.submodule_search_locations or [])[:1] or [""])[0])'
  return new Promise((done) => {
    execFile(python, ['-c', program], { env, timeout: 20_000, windowsHide: true }, (error, stdout) =>
      done(error ? undefined : stdout.trim() || undefined),
    )
  })
}

function describe(found: Installation | undefined): string {
  if (!found) return 'no LibTorch there'
  const kind = `LibTorch ${found.version} (${found.flavour})`
  if (found.version !== LIBTORCH_VERSION) return `${kind}; ${LIBTORCH_VERSION} is needed`
  return found.missing.length > 0 ? `${kind}; it needs ${found.missing.join(', ')} beside it` : kind
}

async function look(source: LibTorchSource, path: string | undefined, absent: string): Promise<Place> {
  if (path === undefined) return { source, path, found: undefined, usable: false, note: absent }
  const found = await inspectLibtorch(path)
  return { source, path, found, usable: found?.version === LIBTORCH_VERSION, note: describe(found) }
}

/** Looks at one place after the other; stops early when `until` says so. */
export async function lookForLibtorch(
  { env = process.env, pythons = ['python3', 'python'] }: FindOptions = {},
  until: (place: Place) => boolean = () => false,
): Promise<Place[]> {
  const places: Place[] = []
  const add = (place: Place): boolean => {
    places.push(place)
    return until(place)
  }
  if (add(await look('SWAP_LIBTORCH', env.SWAP_LIBTORCH || undefined, 'not set'))) return places
  if (add(await look('cache', cachedLibtorch(cacheFolder(env)), ''))) return places
  let torch: string | undefined
  for (const python of pythons) {
    torch = await pythonTorch(python, env)
    if (torch) break
  }
  add(await look('python', torch, 'no Python here has torch'))
  return places
}

const hasCuda = ({ usable, found }: Place): boolean => usable && found?.flavour === 'cuda' && found.missing.length === 0

/** The place to take when all were looked at. */
export function preferCuda(places: Place[]): Place {
  const named = places.find(({ source, path }) => source === 'SWAP_LIBTORCH' && path)
  return named ?? places.find(hasCuda) ?? places.find(({ usable }) => usable) ?? places.at(-1)!
}

/**
 * The LibTorch to load.
 *
 * @throws SwapError `SWAP_LIBTORCH_MISSING` when there is none, `SWAP_LIBTORCH_VERSION` when all that was
 *   found, or the folder that SWAP_LIBTORCH names, is of another version.
 */
export async function findLibtorch(options: FindOptions = {}): Promise<LibTorch> {
  // A folder that was named on purpose is used or refused, never silently passed over.
  const places = await lookForLibtorch(options, (place) =>
    place.source === 'SWAP_LIBTORCH' ? !!place.path : place.usable && (options.prefer !== 'cuda' || hasCuda(place)),
  )
  const last = options.prefer === 'cuda' ? preferCuda(places) : places.at(-1)!
  if (last.usable && last.found) return { ...last.found, source: last.source }
  if (last.source === 'SWAP_LIBTORCH' && !last.found) {
    throw new SwapError('SWAP_LIBTORCH_MISSING', `SWAP_LIBTORCH is ${last.path}, and no LibTorch lies there`, {
      hint: 'it must be the folder that holds lib/; or unset it and run `npx swap setup`',
    })
  }
  const other = places.find((place) => place.found)
  if (other?.found) {
    throw new SwapError(
      'SWAP_LIBTORCH_VERSION',
      `LibTorch ${other.found.version} was found at ${other.found.root}, but this package needs ${LIBTORCH_VERSION}`,
      { hint: SETUP_HINT },
    )
  }
  throw new SwapError('SWAP_LIBTORCH_MISSING', `LibTorch ${LIBTORCH_VERSION} is not on this machine`, {
    hint: SETUP_HINT,
  })
}
