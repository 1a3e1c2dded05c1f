/** Fetching one large file over HTTP: resumable, through the proxies of the environment, verified by its SHA-256. */

import { createHash } from 'node:crypto'
import { closeSync, createReadStream, fsyncSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { readFile, rename, rm, stat } from 'node:fs/promises'
import { finished } from 'node:stream/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { SwapError } from '../errors.ts'
import { fileError } from '../files.ts'

export interface DownloadOptions {
  url: string
  /** Where the whole file will lie; until then `<path>.part` grows. */
  path: string
  /** Lower-case hex. */
  sha256: string
  /** Expected bytes, for the progress when the server does not say. */
  size: number
  signal?: AbortSignal | undefined
  onProgress?: ((done: number, total: number) => void) | undefined
  /** Milliseconds before the first try after a broken connection; doubles with every one that brought nothing. Default 1000. */
  retryDelay?: number | undefined
}

/** How many times in a row a connection may bring nothing new. */
const TRIES = 4

/** What a later run needs to know about a file that is there in part. */
interface Part {
  url: string
  /** A strong ETag or a date, for If-Range; empty when the server gave neither. */
  validator: string
}

/** The server could not be asked at all, or said no: another way may do. */
export function isUnreachable(error: unknown): boolean {
  return error instanceof SwapError && error.code === 'SWAP_LIBTORCH_DOWNLOAD'
}

function failed(url: string, what: string, cause?: unknown): SwapError {
  return new SwapError('SWAP_LIBTORCH_DOWNLOAD', `cannot download ${url}: ${what}`, {
    hint: 'check the network; behind a proxy set HTTPS_PROXY; SWAP_LIBTORCH_URL names a mirror; run it again to go on where it stopped',
    cause,
  })
}

/** The innermost reason that a fetch failed for, in the system's words. */
function reason(error: unknown): string {
  let inner = error
  while (inner instanceof Error && inner.cause instanceof Error) inner = inner.cause
  return inner instanceof Error ? ((inner as NodeJS.ErrnoException).code ?? inner.message) : String(inner)
}

async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => undefined))?.size ?? 0
}

async function readPart(path: string): Promise<Part | undefined> {
  try {
    const part = JSON.parse(await readFile(path, 'utf8')) as Part
    return typeof part.url === 'string' && typeof part.validator === 'string' ? part : undefined
  } catch {
    return undefined
  }
}

/** SHA-256 of a file, lower-case hex. */
export async function sha256File(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20, signal })) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

type Headers = Record<string, string | string[] | undefined>

function header(headers: Headers, name: string): string | undefined {
  const value = headers[name]
  return Array.isArray(value) ? value[0] : value
}

/** Codes of system errors that are the network's. */
const NETWORK = /^(EAI_|ECONN|EHOST|ENET|ENOTFOUND|EPIPE|EPROTO|ETIMEDOUT|UND_)/

/** A weak ETag does not promise the same bytes, so it cannot stand in If-Range. */
function validatorOf(headers: Headers): string {
  const etag = header(headers, 'etag')
  return etag && !etag.startsWith('W/') ? etag : (header(headers, 'last-modified') ?? '')
}

/** Where a 206 begins and how long the whole is. */
function contentRange(value: string | undefined): { start: number; total: number } | undefined {
  const match = /^bytes (\d+)-\d+\/(\d+)$/.exec(value ?? '')
  return match ? { start: Number(match[1]), total: Number(match[2]) } : undefined
}

/**
 * Downloads `url` to `path`. A connection that breaks is taken up again where it broke, in this run or in a
 * later one, when the server still has the same file; else from the beginning.
 *
 * @throws SwapError `SWAP_LIBTORCH_DOWNLOAD` (not to be had), `SWAP_LIBTORCH_CHECKSUM` (other bytes than pinned),
 *   `SWAP_FILE_…`; the signal's reason when aborted.
 */
export async function download(options: DownloadOptions): Promise<void> {
  const { url, path, sha256, signal } = options
  const part = `${path}.part`
  const note = `${path}.part.json`
  if ((await sizeOf(path)) > 0 && (await sha256File(path, signal)) === sha256) return

  const { EnvHttpProxyAgent, interceptors } = await import('undici')
  const agent = new EnvHttpProxyAgent({ connectTimeout: 15_000, headersTimeout: 30_000, bodyTimeout: 30_000 })
  const dispatcher = agent.compose(interceptors.redirect({ maxRedirections: 5 }))
  try {
    let fruitless = 0
    for (;;) {
      const before = await sizeOf(part)
      try {
        await attempt(options, part, note, dispatcher)
        break
      } catch (error) {
        signal?.throwIfAborted()
        if (error instanceof SwapError) throw error
        // Both the network's errors and the disk's are system errors; only the disk's end the download.
        const wrapped = NETWORK.test(reason(error)) ? error : fileError(error, part, 'write')
        if (wrapped instanceof SwapError) throw wrapped
        fruitless = (await sizeOf(part)) > before ? 0 : fruitless + 1
        // A host that does not exist will not exist in a second either.
        if (fruitless >= TRIES || reason(error) === 'ENOTFOUND') throw failed(url, reason(error), error)
        await delay((options.retryDelay ?? 1000) * 2 ** Math.max(0, fruitless - 1), undefined, { signal })
      }
    }
  } finally {
    await agent.destroy().catch(() => {})
  }

  const actual = await sha256File(part, signal)
  if (actual !== sha256) {
    await rm(part, { force: true })
    await rm(note, { force: true })
    throw new SwapError('SWAP_LIBTORCH_CHECKSUM', `${url} has the SHA-256 ${actual}; ${sha256} is expected`, {
      hint: 'the file was changed on its way or on the server; it was deleted, run it again',
    })
  }
  await rename(part, path)
  await rm(note, { force: true })
}

/** One request; appends to the part file. Throws plain errors for what another try may mend. */
async function attempt(
  { url, size, signal, onProgress }: DownloadOptions,
  part: string,
  note: string,
  dispatcher: import('undici').Dispatcher,
): Promise<void> {
  const { request } = await import('undici')
  const known = await readPart(note)
  let start = known?.url === url && known.validator ? await sizeOf(part) : 0
  const asked: Record<string, string> = { 'accept-encoding': 'identity' }
  if (start > 0 && known) Object.assign(asked, { range: `bytes=${start}-`, 'if-range': known.validator })
  const { statusCode, headers, body } = await request(url, { dispatcher, headers: asked, signal: signal ?? null })

  const range = statusCode === 206 ? contentRange(header(headers, 'content-range')) : undefined
  if (statusCode !== 200 && !(range && range.start === start)) {
    body.on('error', () => {}).destroy()
    if (statusCode === 416 || statusCode === 206) {
      // What is here does not fit what is there: begin again, at the next try.
      await rm(part, { force: true })
      throw new Error(`the server's range does not fit (${statusCode})`)
    }
    if (statusCode >= 500 || statusCode === 429) throw new Error(`the server answered ${statusCode}`)
    throw failed(url, `the server answered ${statusCode}`)
  }
  if (statusCode === 200) start = 0
  const length = Number(header(headers, 'content-length') ?? Number.NaN)
  const total = range?.total ?? (Number.isFinite(length) ? length : size)

  let file: number | undefined
  let done = start
  try {
    // Nothing is awaited before the body is listened to: what comes meanwhile would be lost if the connection broke.
    writeFileSync(note, JSON.stringify({ url, validator: validatorOf(headers) } satisfies Part))
    file = openSync(part, start > 0 ? 'a' : 'w')
    const fd = file
    body.on('data', (chunk: Buffer) => {
      try {
        for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at)
        done += chunk.length
        onProgress?.(done, total)
      } catch (error) {
        body.destroy(error as Error)
      }
    })
    await finished(body)
    fsyncSync(file)
  } finally {
    body.on('error', () => {}).destroy()
    if (file !== undefined) closeSync(file)
  }
  if ((range || Number.isFinite(length)) && done !== total)
    throw new Error(`the connection ended after ${done} of ${total} bytes`)
}
