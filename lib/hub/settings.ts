/** What the environment says about the hub: the same variables that Python's huggingface_hub reads. */
import { readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { SwapError } from '../errors.ts'

export interface HubSettings {
  /** Without a slash at the end. */
  endpoint: string
  /** The folder with `models--…`. */
  cache: string
  /** Nothing is fetched. */
  offline: boolean
  /** The value of the header, or undefined. */
  authorization: string | undefined
  /** False: files are put into snapshots themselves, as where the system refuses links. */
  symlinks: boolean
}

const isTrue = (value: string | undefined): boolean => /^(1|on|yes|true)$/i.test(value ?? '')

function home(path: string): string {
  return path === '~' || path.startsWith('~/') ? join(homedir(), path.slice(1)) : path
}

/**
 * `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_HUB_DISABLE_SYMLINKS`,
 * `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `XDG_CACHE_HOME`.
 *
 * @throws SwapError `SWAP_HUB_SETTING`
 */
export async function hubSettings(env: NodeJS.ProcessEnv = process.env): Promise<HubSettings> {
  const root = home(env.HF_HOME || join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface'))
  const endpoint = (env.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, '')
  if (!/^https?:\/\//.test(endpoint) || !URL.canParse(endpoint)) {
    throw new SwapError('SWAP_HUB_SETTING', `HF_ENDPOINT is "${endpoint}", not an address`, {
      hint: 'write it with https://, or leave it out',
    })
  }
  const token = await readToken(env, root)
  // What is no token would break the header, or end up in a log of the server's.
  if (token !== undefined && !/^[\w.-]{1,1000}$/.test(token)) {
    throw new SwapError('SWAP_HUB_SETTING', 'the token for the hub has characters that no token has', {
      hint: 'check HF_TOKEN, or the file that `hf auth login` wrote',
    })
  }
  return {
    endpoint,
    cache: home(env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(root, 'hub')),
    offline: isTrue(env.HF_HUB_OFFLINE || env.TRANSFORMERS_OFFLINE),
    authorization: token === undefined ? undefined : `Bearer ${token}`,
    symlinks: !isTrue(env.HF_HUB_DISABLE_SYMLINKS),
  }
}

/** That of the environment, else the one that `hf auth login` left. */
async function readToken(env: NodeJS.ProcessEnv, root: string): Promise<string | undefined> {
  if (isTrue(env.HF_HUB_DISABLE_IMPLICIT_TOKEN)) return undefined
  const given = (env.HF_TOKEN || env.HUGGING_FACE_HUB_TOKEN)?.trim()
  if (given) return given
  const file = home(env.HF_TOKEN_PATH || join(root, 'token'))
  return (await readFile(file, 'utf8').catch(() => '')).trim() || undefined
}
