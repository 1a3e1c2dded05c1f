/** `swap setup`: LibTorch into the cache folder, whole or not at all. */

import { mkdir, readdir, rename, rm, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { SwapError } from '../errors.ts'
import { fileError } from '../files.ts'
import { type DownloadErrors, download } from '../http/download.ts'
import { takeLock } from '../lock.ts'
import { cachedLibtorch, cacheFolder } from './cache.ts'
import type { LibTorch } from './find.ts'
import { inspectLibtorch } from './inspect.ts'
import { downloadWheel, wheelEntry } from './pip.ts'
import { unzip } from './unzip.ts'
import { ARCHIVE_BASE, type Archive, archiveFor, LIBTORCH_VERSION } from './version.ts'

export interface SetupProgress {
  /** `pip` has no figures: pip says none that could be read. */
  phase: 'download' | 'pip' | 'unpack'
  /** Bytes. */
  done: number
  /** Bytes; 0 when unknown. */
  total: number
}

export interface SetupOptions {
  /** `archive`: the official one; `pip`: the Python wheel; `auto` (default): the first, else the second. */
  from?: 'auto' | 'archive' | 'pip' | undefined
  /** Fetch again what is already there. */
  force?: boolean | undefined
  /** Cache folder; default `cacheFolder()`. */
  cache?: string | undefined
  /** Address of the archives; default SWAP_LIBTORCH_URL, else the official one. */
  baseUrl?: string | undefined
  /** Replaces the pinned archive, for tests. */
  archive?: Archive | undefined
  /** Interpreters that pip is asked of, in order; default python3, python. */
  pythons?: string[] | undefined
  env?: NodeJS.ProcessEnv | undefined
  signal?: AbortSignal | undefined
  onProgress?: ((progress: SetupProgress) => void) | undefined
  /** What happened on the way, in words. */
  onNote?: ((note: string) => void) | undefined
  /** See `download`. */
  retryDelay?: number | undefined
}

/** An archive unpacks to about four times its size, and lies beside that until the end. */
const UNPACKED = 4

async function requireSpace(folder: string, bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder)
  if (bavail * bsize >= bytes) return
  const gb = (value: number): string => `${(value / 1e9).toFixed(1)} GB`
  throw new SwapError(
    'SWAP_LIBTORCH_DISK',
    `LibTorch takes ${gb(bytes)}, and ${folder} has ${gb(bavail * bsize)} left`,
    { hint: 'free some space, or set SWAP_CACHE to a folder on another disk' },
  )
}

/** How this room says that its download failed. */
const ERRORS: DownloadErrors = {
  failed: (url, what, cause) =>
    new SwapError('SWAP_LIBTORCH_DOWNLOAD', `cannot download ${url}: ${what}`, {
      hint: 'check the network; behind a proxy set HTTPS_PROXY; SWAP_LIBTORCH_URL names a mirror; run it again to go on where it stopped',
      cause,
    }),
  checksum: (_, what) =>
    new SwapError('SWAP_LIBTORCH_CHECKSUM', what, {
      hint: 'the file was changed on its way or on the server; it was deleted, run it again',
    }),
}

/** The server could not be asked at all, or said no: another way may do. */
function isUnreachable(error: unknown): boolean {
  return error instanceof SwapError && error.code === 'SWAP_LIBTORCH_DOWNLOAD'
}

/** Two set-ups at once would write into the same part file. */
function lock(cache: string): Promise<() => Promise<void>> {
  return takeLock(
    join(cache, 'setup.lock'),
    (pid) =>
      new SwapError('SWAP_LIBTORCH_BUSY', `another \`swap setup\` is at work in ${cache} (process ${pid})`, {
        hint: 'wait for it to end',
      }),
  )
}

/** What an interrupted unpacking left. */
async function sweep(cache: string): Promise<void> {
  for (const name of await readdir(cache))
    if (name.startsWith('unpack-') || name === 'pip') await rm(join(cache, name), { recursive: true, force: true })
}

/**
 * Gets LibTorch into the cache folder and resolves to it; at once when it is already there.
 *
 * The official archive is fetched in Node (resumable, through HTTPS_PROXY, pinned SHA-256). Where it cannot be
 * reached, pip fetches the Python wheel. A run that was interrupted goes on where it stopped.
 *
 * @throws SwapError `SWAP_LIBTORCH_DOWNLOAD`, `_CHECKSUM`, `_ARCHIVE`, `_PIP`, `_WHEEL` (the wheel is a CUDA build
 *   without CUDA's own libraries), `_DISK`, `_BUSY`, `_PLATFORM`; `SWAP_FILE_…`; the signal's reason when aborted.
 */
export async function setupLibtorch(options: SetupOptions = {}): Promise<LibTorch> {
  const { env = process.env, signal } = options
  const cache = options.cache ?? cacheFolder(env)
  const target = cachedLibtorch(cache)
  const present = await inspectLibtorch(target)
  if (present?.version === LIBTORCH_VERSION && !options.force) return { ...present, source: 'cache' }

  try {
    await mkdir(cache, { recursive: true })
    const unlock = await lock(cache)
    try {
      await sweep(cache)
      const fresh = join(cache, `unpack-${process.pid}`)
      await fetchInto(fresh, cache, options)
      signal?.throwIfAborted()
      // One rename at the end: whoever looks meanwhile sees the old state or the new one.
      await rm(target, { recursive: true, force: true })
      await rename(fresh, target)
      await rm(join(cache, 'downloads'), { recursive: true, force: true })
    } finally {
      await sweep(cache).catch(() => {})
      await unlock()
    }
  } catch (error) {
    throw fileError(error, cache, 'write')
  }
  const installed = await inspectLibtorch(target)
  return { ...installed!, source: 'cache' }
}

async function fetchInto(fresh: string, cache: string, options: SetupOptions): Promise<void> {
  const { from = 'auto', onNote } = options
  const archive = options.archive ?? archiveFor()
  if (from !== 'pip' && archive) {
    try {
      return await fromArchive(archive, fresh, cache, options)
    } catch (error) {
      if (from === 'archive' || !isUnreachable(error)) throw error
      onNote?.(`${(error as Error).message}; asking pip instead`)
    }
  } else if (from === 'archive') {
    throw new SwapError(
      'SWAP_LIBTORCH_PLATFORM',
      `no archive of LibTorch is published for ${process.platform} ${process.arch}`,
      {
        hint: 'use `swap setup --from pip`',
      },
    )
  }
  await fromPip(fresh, cache, options)
}

async function fromArchive(archive: Archive, fresh: string, cache: string, options: SetupOptions): Promise<void> {
  const { env = process.env, signal, onProgress, onNote, retryDelay } = options
  const base = (options.baseUrl ?? env.SWAP_LIBTORCH_URL ?? ARCHIVE_BASE).replace(/\/+$/, '')
  const folder = join(cache, 'downloads')
  await mkdir(folder, { recursive: true })
  await requireSpace(cache, archive.size * (1 + UNPACKED))
  const path = join(folder, decodeURIComponent(archive.path.split('/').at(-1)!))
  onNote?.(`getting ${base}/${archive.path}`)
  await download({
    url: `${base}/${archive.path}`,
    path,
    checksum: { algorithm: 'sha256', hex: archive.sha256 },
    errors: ERRORS,
    size: archive.size,
    signal,
    retryDelay,
    onProgress: (done, total) => onProgress?.({ phase: 'download', done, total }),
  })
  await unpack(path, fresh, cache, options, (name) => /^libtorch\/(.+)$/.exec(name)?.[1])
}

async function fromPip(fresh: string, cache: string, options: SetupOptions): Promise<void> {
  const { signal, onProgress, onNote, env, pythons } = options
  await requireSpace(cache, 1e9)
  onNote?.(`pip is getting torch ${LIBTORCH_VERSION}; this can take minutes`)
  onProgress?.({ phase: 'pip', done: 0, total: 0 })
  const wheel = await downloadWheel({ folder: join(cache, 'pip'), signal, env, pythons })
  await unpack(wheel, fresh, cache, options, wheelEntry)
}

async function unpack(
  archive: string,
  fresh: string,
  cache: string,
  { signal, onProgress }: SetupOptions,
  keep: (name: string) => string | undefined,
): Promise<void> {
  await mkdir(fresh, { recursive: true })
  await unzip(archive, fresh, {
    keep,
    signal,
    onSize: (bytes) => requireSpace(cache, bytes),
    onProgress: (done, total) => onProgress?.({ phase: 'unpack', done, total }),
  })
  const found = await inspectLibtorch(fresh)
  if (found?.version !== LIBTORCH_VERSION)
    throw new SwapError(
      'SWAP_LIBTORCH_ARCHIVE',
      `${archive} holds ${found ? `LibTorch ${found.version}` : 'no LibTorch'}; ${LIBTORCH_VERSION} is expected`,
      { hint: 'is SWAP_LIBTORCH_URL or pip set to something of its own?' },
    )
  if (found.missing.length > 0)
    throw new SwapError(
      'SWAP_LIBTORCH_WHEEL',
      `pip got the CUDA build of torch ${LIBTORCH_VERSION}, which does not load without ${found.missing.join(' and ')}`,
      {
        hint: `give pip an index with the CPU build (PIP_INDEX_URL), or let it install all: \`pip install torch==${LIBTORCH_VERSION}\`, which is then found by itself`,
      },
    )
}
