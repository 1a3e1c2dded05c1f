/** The network: through the proxies of the environment, with a few tries, and its errors told from others. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Dispatcher as UndiciDispatcher } from 'undici'
import { SwapError } from '../errors.ts'

export type Dispatcher = UndiciDispatcher
export type Headers = Record<string, string | string[] | undefined>

/** How many times in a row a try may bring nothing new. */
const TRIES = 4
/** Codes of system errors that are the network's. */
const NETWORK = /^(EAI_|ECONN|EHOST|ENET|ENOTFOUND|EPIPE|EPROTO|ETIMEDOUT|UND_)/

export function header(headers: Headers, name: string): string | undefined {
  const value = headers[name]
  return Array.isArray(value) ? value[0] : value
}

/** The innermost reason that a request failed for, in the system's words. */
export function reason(error: unknown): string {
  let inner = error
  while (inner instanceof Error && inner.cause instanceof Error) inner = inner.cause
  return inner instanceof Error ? ((inner as NodeJS.ErrnoException).code ?? inner.message) : String(inner)
}

/** Calls `work` with what requests go through: proxies of the environment, redirects (without credentials to other hosts). */
export async function withDispatcher<T>(
  given: Dispatcher | undefined,
  work: (dispatcher: Dispatcher) => Promise<T>,
): Promise<T> {
  if (given) return await work(given)
  const { EnvHttpProxyAgent, interceptors } = await import('undici')
  const agent = new EnvHttpProxyAgent({ connectTimeout: 15_000, headersTimeout: 30_000, bodyTimeout: 30_000 })
  try {
    return await work(agent.compose(interceptors.redirect({ maxRedirections: 5 })))
  } finally {
    await agent.destroy().catch(() => {})
  }
}

export interface Retrying {
  signal?: AbortSignal | undefined
  /** Milliseconds before the second try; doubles. Default 1000. */
  delay?: number | undefined
  /** Grows while tries bring something: those do not count. */
  progress?: () => Promise<number>
  /** What an error that is not the network's becomes. */
  wrap?: (error: unknown) => unknown
  /** What is thrown in the end. */
  failed: (error: unknown) => SwapError
}

/** Tries again what failed for the network; a `SwapError` ends it at once. */
export async function retrying<T>(work: () => Promise<T>, options: Retrying): Promise<T> {
  const { signal, progress = async () => 0, wrap = (error: unknown) => error, failed } = options
  for (let fruitless = 0; ; ) {
    const before = await progress()
    try {
      return await work()
    } catch (error) {
      signal?.throwIfAborted()
      if (error instanceof SwapError) throw error
      const wrapped = NETWORK.test(reason(error)) ? error : wrap(error)
      if (wrapped instanceof SwapError) throw wrapped
      fruitless = (await progress()) > before ? 0 : fruitless + 1
      // A host that does not exist will not exist in a second either.
      if (fruitless >= TRIES || reason(error) === 'ENOTFOUND') throw failed(error)
      await delay((options.delay ?? 1000) * 2 ** Math.max(0, fruitless - 1), undefined, { signal }).catch(() => {})
      signal?.throwIfAborted()
    }
  }
}
