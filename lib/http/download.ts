/** Fetching one large file over HTTP: resumable, through the proxies of the environment, verified by its checksum. */

import { createHash } from 'node:crypto'
import { closeSync, createReadStream, fsyncSync, ftruncateSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { readFile, rename, rm, stat } from 'node:fs/promises'
import { finished } from 'node:stream/promises'
import type { SwapError } from '../errors.ts'
import { fileError } from '../files.ts'
import { type Dispatcher, type Headers, header, reason, retrying, withDispatcher } from './network.ts'

/** What the bytes must be. */
export interface Checksum {
  /** `'git-sha1'`: of a git blob, so with its length before the bytes. */
  algorithm: 'sha256' | 'git-sha1'
  /** Lower-case hex. */
  hex: string
}

/** How a room says what went wrong: every one has its own codes and hints. */
export interface DownloadErrors {
  /** Not to be had. */
  failed(url: string, what: string, cause?: unknown): SwapError
  /** Other bytes came than were asked for. */
  checksum(url: string, what: string): SwapError
  /** For answers that mean something of their own, e.g. 401. */
  refused?(status: number, headers: Headers): SwapError | undefined
}

export interface DownloadOptions {
  url: string
  /** Where the whole file will lie; until then `<path>.part` grows. */
  path: string
  checksum: Checksum
  /** Expected bytes; more are not taken. */
  size: number
  errors: DownloadErrors
  /** Sent along, but never to another host that the server leads to. */
  authorization?: string | undefined
  /** Default: one of its own. */
  dispatcher?: Dispatcher | undefined
  signal?: AbortSignal | undefined
  onProgress?: ((done: number, total: number) => void) | undefined
  /** Milliseconds before the first try after a broken connection; doubles with every one that brought nothing. Default 1000. */
  retryDelay?: number | undefined
}

/** What a later run needs to know about a file that is there in part. */
interface Part {
  url: string
  /** A strong ETag or a date, for If-Range; empty when the server gave neither. */
  validator: string
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

/** A file's checksum, lower-case hex. */
async function checksumOf(path: string, { algorithm }: Checksum, signal?: AbortSignal): Promise<string> {
  const hash = createHash(algorithm === 'sha256' ? 'sha256' : 'sha1')
  if (algorithm === 'git-sha1') hash.update(`blob ${await sizeOf(path)}\0`)
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20, signal })) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

/**
 * Downloads `url` to `path`. A connection that breaks is taken up again where it broke, in this run or in a
 * later one, when the server still has the same file; else from the beginning.
 *
 * @throws SwapError `errors.failed()` (not to be had), `errors.checksum()` (other bytes than expected), `SWAP_FILE_…`;
 *   the signal's reason when aborted.
 */
export async function download(options: DownloadOptions): Promise<void> {
  const { url, path, checksum, signal, errors } = options
  const part = `${path}.part`
  const note = `${path}.part.json`
  if ((await sizeOf(path)) > 0 && (await checksumOf(path, checksum, signal)) === checksum.hex) return

  await withDispatcher(options.dispatcher, (dispatcher) =>
    retrying(() => attempt(options, part, note, dispatcher), {
      signal,
      delay: options.retryDelay,
      progress: () => sizeOf(part),
      // Both the network's errors and the disk's are system errors; only the disk's end the download.
      wrap: (error) => fileError(error, part, 'write'),
      failed: (error) => errors.failed(url, reason(error), error),
    }),
  )

  const actual = await checksumOf(part, checksum, signal)
  if (actual !== checksum.hex) {
    await rm(part, { force: true })
    await rm(note, { force: true })
    const name = checksum.algorithm === 'sha256' ? 'SHA-256' : "git's SHA-1"
    throw errors.checksum(url, `${url} has ${name} ${actual}; ${checksum.hex} is expected`)
  }
  await rename(part, path)
  await rm(note, { force: true })
}

/** One request; appends to the part file. Throws plain errors for what another try may mend. */
async function attempt(
  { url, size, signal, onProgress, authorization, errors }: DownloadOptions,
  part: string,
  note: string,
  dispatcher: Dispatcher,
): Promise<void> {
  const { request } = await import('undici')
  const known = await readPart(note)
  let start = known?.url === url && known.validator ? await sizeOf(part) : 0
  const asked: Record<string, string> = { 'accept-encoding': 'identity', ...(authorization && { authorization }) }
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
    throw errors.refused?.(statusCode, headers) ?? errors.failed(url, `the server answered ${statusCode}`)
  }
  if (statusCode === 200) start = 0
  const length = header(headers, 'content-length')
  const offered = range?.total ?? (length === undefined ? size : Number(length))
  const surplus = (bytes: string): SwapError => errors.checksum(url, `${url} has ${bytes} bytes; ${size} are expected`)
  if (offered !== size) {
    body.on('error', () => {}).destroy()
    throw surplus(String(offered))
  }

  let file: number | undefined
  let done = start
  try {
    // Nothing is awaited before the body is listened to: what comes meanwhile would be lost if the connection broke.
    writeFileSync(note, JSON.stringify({ url, validator: validatorOf(headers) } satisfies Part))
    file = openSync(part, start > 0 ? 'a' : 'w')
    const fd = file
    body.on('data', (chunk: Buffer) => {
      try {
        if (done + chunk.length > size) {
          ftruncateSync(fd)
          throw surplus('more')
        }
        for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at)
        done += chunk.length
        onProgress?.(done, size)
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
  if (done !== size) throw new Error(`the connection ended after ${done} of ${size} bytes`)
}
