/** Where `swap setup` keeps what it fetched. */

import { homedir } from 'node:os'
import { join } from 'node:path'
import { LIBTORCH_VERSION } from './version.ts'

/**
 * The cache folder: `SWAP_CACHE`, else the platform's own place for caches
 * (`$XDG_CACHE_HOME` or `~/.cache`, `~/Library/Caches`, `%LOCALAPPDATA%`) and `swap-native` in it.
 */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  if (env.SWAP_CACHE) return env.SWAP_CACHE
  if (process.platform === 'darwin') return join(homedir(), 'Library', 'Caches', 'swap-native')
  if (process.platform === 'win32')
    return join(env.LOCALAPPDATA ?? join(homedir(), 'AppData', 'Local'), 'swap-native', 'cache')
  return join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'swap-native')
}

/** Where `swap setup` puts LibTorch: one folder a version, so that an update never touches what runs. */
export function cachedLibtorch(cache: string = cacheFolder()): string {
  return join(cache, `libtorch-${LIBTORCH_VERSION}-${process.platform}-${process.arch}`)
}
