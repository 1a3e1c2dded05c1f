/** What the hub answers, checked before anything is made of it. */
import { SwapError } from '../errors.ts'
import type { Checksum, DownloadErrors } from '../http/download.ts'
import { getJson } from '../http/json.ts'
import { type Dispatcher, type Headers, header } from '../http/network.ts'
import { jsonObject, show } from '../model/json.ts'
import { type HubReference, isCommit } from './reference.ts'
import type { HubSettings } from './settings.ts'

export interface RemoteFile {
  path: string
  size: number
  /** Also the blob's name in the cache. */
  checksum: Checksum
}

export interface Remote {
  commit: string
  files: ReadonlyMap<string, RemoteFile>
}

export interface RemoteOptions {
  dispatcher: Dispatcher
  signal?: AbortSignal | undefined
  retryDelay?: number | undefined
}

const ANSWER_LIMIT = 32 * 2 ** 20
const PAGES = 100

/**
 * The commit that a revision is now, and its files.
 *
 * @throws SwapError `SWAP_HUB_NOT_FOUND`, `SWAP_HUB_TOKEN`, `SWAP_HUB_UNREACHABLE`, `SWAP_HUB_ANSWER`
 */
export async function askHub(
  { endpoint, authorization }: HubSettings,
  reference: HubReference,
  options: RemoteOptions,
): Promise<Remote> {
  const { id, revision } = reference
  const errors = hubErrors(id, revision, authorization !== undefined)
  const ask = (url: string) => getJson({ ...errors, ...options, url, authorization, limit: ANSWER_LIMIT })
  const api = `${endpoint}/api/models/${id}`
  const info = await ask(`${api}/revision/${encodeURIComponent(revision)}`)
  const commit = jsonObject(info.value)?.get('sha')
  if (!isCommit(commit)) throw errors.malformed(api, `its commit is ${show(commit)}`)
  const files = new Map<string, RemoteFile>()
  let url: string | undefined = `${api}/tree/${commit}?recursive=true`
  for (let page = 0; url !== undefined; page++) {
    if (page >= PAGES) throw errors.malformed(api, `its list of files has more than ${PAGES} pages`)
    const { value, headers } = await ask(url)
    if (!Array.isArray(value)) throw errors.malformed(url, 'the answer is no list of files')
    for (const entry of value) {
      const file = readEntry(entry, (what) => errors.malformed(api, what))
      if (file) files.set(file.path, file)
    }
    url = nextPage(headers, url)
  }
  return { commit, files }
}

/** Where a file's bytes are. */
export function fileUrl({ endpoint }: HubSettings, id: string, commit: string, path: string): string {
  return `${endpoint}/${id}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`
}

function readEntry(entry: unknown, malformed: (what: string) => SwapError): RemoteFile | undefined {
  const fields = jsonObject(entry)
  const path = fields?.get('path')
  if (!fields || typeof path !== 'string') throw malformed('an entry of its list of files has no path')
  // Files are put where their paths say: one that leads elsewhere condemns the whole answer.
  const parts = path.split('/')
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
  if (path.length > 1000 || parts.some((part) => /^(\.{0,2}|.*[\\:\u0000-\u001f].*)$/.test(part))) {
    throw malformed(`it has a file ${show(path)}, which leads out of its folder`)
  }
  if (fields.get('type') !== 'file') return undefined
  const lfs = jsonObject(fields.get('lfs'))
  const size = (lfs ?? fields).get('size')
  const hex = (lfs ?? fields).get('oid')
  const algorithm = lfs ? 'sha256' : 'git-sha1'
  if (!Number.isSafeInteger(size) || (size as number) < 0) throw malformed(`the size of ${show(path)} is ${show(size)}`)
  if (typeof hex !== 'string' || !(lfs ? /^[0-9a-f]{64}$/ : /^[0-9a-f]{40}$/).test(hex)) {
    throw malformed(`the checksum of ${show(path)} is ${show(hex)}`)
  }
  return { path, size: size as number, checksum: { algorithm, hex } }
}

/** `Link: <…>; rel="next"`, on the same server only: the token goes with it. */
function nextPage(headers: Headers, url: string): string | undefined {
  const [, next] = /<([^<>]+)>\s*;\s*rel="next"/.exec(header(headers, 'link') ?? '') ?? []
  if (next === undefined || !URL.canParse(next, url)) return undefined
  const parsed = new URL(next, url)
  return parsed.origin === new URL(url).origin ? parsed.href : undefined
}

export interface HubErrors extends DownloadErrors {
  malformed(url: string, what: string, cause?: unknown): SwapError
  refused(status: number, headers: Headers): SwapError | undefined
}

/** How this room says what went wrong. */
export function hubErrors(id: string, revision: string, withToken: boolean): HubErrors {
  const name = revision === 'main' ? id : `${id}@${revision}`
  return {
    failed: (url, what, cause) =>
      new SwapError('SWAP_HUB_UNREACHABLE', `cannot get ${name} from ${new URL(url).origin}: ${what}`, {
        hint: 'check the network; behind a proxy set HTTPS_PROXY; HF_ENDPOINT names a mirror; run it again to go on where it stopped',
        cause,
      }),
    checksum: (_, what) =>
      new SwapError('SWAP_HUB_CHECKSUM', what, {
        hint: 'the file was changed on its way or on the server; it was not kept, run it again',
      }),
    malformed: (url, what, cause) =>
      new SwapError('SWAP_HUB_ANSWER', `the answer of ${new URL(url).origin} about ${name} cannot be used: ${what}`, {
        hint: 'is HF_ENDPOINT the address of a hub?',
        cause,
      }),
    refused: (status, headers) => {
      // The hub says 401 of what does not exist, so as not to tell who asks without a token.
      if (status === 401 || status === 403) {
        const gated = header(headers, 'x-error-code') === 'GatedRepo'
        const what = gated ? 'is open only to who accepted its terms' : 'is not there, or not open to everybody'
        const how = withToken ? 'the token that was sent does not open it' : 'no token was sent'
        return new SwapError('SWAP_HUB_TOKEN', `${name} ${what} (${status}), and ${how}`, {
          hint: `check the name; accept the model's terms on its page where it has some; put a token with the right to read it into HF_TOKEN`,
        })
      }
      if (status !== 404) return undefined
      return new SwapError('SWAP_HUB_NOT_FOUND', `${name} is not on the hub`, {
        hint:
          revision === 'main' ? 'check the name; a folder is written ./owner/name' : 'check the name and the revision',
      })
    },
  }
}
