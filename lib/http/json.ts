/** Asking a server for JSON. */
import type { SwapError } from '../errors.ts'
import { type Dispatcher, type Headers, reason, retrying } from './network.ts'

export interface JsonOptions {
  url: string
  /** Most bytes of an answer. */
  limit: number
  dispatcher: Dispatcher
  authorization?: string | undefined
  signal?: AbortSignal | undefined
  /** See `retrying`. */
  retryDelay?: number | undefined
  /** The server cannot be asked, or is out of order. */
  failed(url: string, what: string, cause?: unknown): SwapError
  /** The answer is none that can be used. */
  malformed(url: string, what: string, cause?: unknown): SwapError
  /** For answers that mean something of their own, e.g. 404. */
  refused(status: number, headers: Headers): SwapError | undefined
}

/** One JSON answer and its headers. */
export async function getJson(options: JsonOptions): Promise<{ value: unknown; headers: Headers }> {
  const { url, signal, failed } = options
  return await retrying(() => ask(options), {
    signal,
    delay: options.retryDelay,
    failed: (error) => failed(url, reason(error), error),
  })
}

async function ask(options: JsonOptions): Promise<{ value: unknown; headers: Headers }> {
  const { url, limit, dispatcher, authorization, signal, failed, malformed, refused } = options
  const { request } = await import('undici')
  const asked = { accept: 'application/json', ...(authorization && { authorization }) }
  const { statusCode, headers, body } = await request(url, { dispatcher, headers: asked, signal: signal ?? null })
  if (statusCode !== 200) {
    body.on('error', () => {}).destroy()
    if (statusCode >= 500 || statusCode === 429) throw new Error(`the server answered ${statusCode}`)
    throw refused(statusCode, headers) ?? failed(url, `the server answered ${statusCode}`)
  }
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of body as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > limit) throw malformed(url, `the answer has more than ${limit} bytes`)
    chunks.push(chunk)
  }
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(chunks))
    return { value: JSON.parse(text) as unknown, headers }
  } catch (cause) {
    throw malformed(url, 'the answer is not JSON', cause)
  }
}
