/** Configs that others wrote: JSON read with limits, and values taken out of it with their type checked. */
import { stat } from 'node:fs/promises'
import { SwapError } from '../errors.ts'
import { readFileLimited } from '../files.ts'

/** Own keys only, so that a `__proto__` in a file is a key like any other. */
export type JsonObject = ReadonlyMap<string, unknown>

/** A file's own keys; undefined where the value is not an object. */
export function jsonObject(value: unknown): JsonObject | undefined {
  return isObject(value) ? new Map(Object.entries(value)) : undefined
}

export function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** `JSON.parse` that also takes Python's `Infinity`, `-Infinity` and `NaN` (null), which diffusers writes. */
export function parseJson(text: string): unknown {
  const plain = text.charCodeAt(0) === 0xfeff ? text.slice(1) : text
  try {
    return JSON.parse(plain)
  } catch (error) {
    if (!/Infinity|NaN/.test(plain)) throw error
    const words: Record<string, string> = { Infinity: '1e999', '-Infinity': '-1e999', NaN: 'null' }
    return JSON.parse(plain.replace(/"(?:[^"\\]|\\.)*"|-?Infinity|NaN/g, (token) => words[token] ?? token))
  }
}

/** True where there is a file or a folder. */
export async function exists(path: string, kind: 'file' | 'folder' = 'file'): Promise<boolean> {
  const found = await stat(path).catch(() => undefined)
  return kind === 'file' ? found?.isFile() === true : found?.isDirectory() === true
}

const CONFIG_LIMIT = 16 * 2 ** 20
/** No width, vocabulary or count of a model comes near; products of three stay exact. */
const MAX_SIZE = 2 ** 24

/**
 * Reads a JSON file that must hold an object.
 *
 * @throws SwapError `SWAP_MODEL_FILE_MISSING`, `SWAP_MODEL_CONFIG` (not JSON, not an object), `SWAP_FILE_…`
 */
export async function readConfig(path: string, hint = 'the folder must be a whole diffusers model'): Promise<Config> {
  if (!(await exists(path))) {
    throw new SwapError('SWAP_MODEL_FILE_MISSING', `"${path}" is missing`, { hint })
  }
  const bytes = await readFileLimited(path, CONFIG_LIMIT)
  let value: unknown
  try {
    value = parseJson(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (cause) {
    throw new SwapError('SWAP_MODEL_CONFIG', `"${path}" is not JSON`, { hint: 'get the file again', cause })
  }
  const object = jsonObject(value)
  if (!object)
    throw new SwapError('SWAP_MODEL_CONFIG', `"${path}" holds no JSON object`, { hint: 'get the file again' })
  return new Config(path, object)
}

/** How a value reads in a message. */
export function show(value: unknown): string {
  const text = typeof value === 'number' ? String(value) : (JSON.stringify(value) ?? String(value))
  return text.length > 120 ? `${text.slice(0, 117)}...` : text
}

/** A config file's keys, with errors that name file, key and value. */
export class Config {
  readonly file: string
  readonly #entries: JsonObject
  readonly #used = new Set<string>()

  constructor(file: string, entries: JsonObject) {
    this.file = file
    this.#entries = entries
  }

  /** The raw value; undefined when the key is absent. */
  get(key: string): unknown {
    this.#used.add(key)
    return this.#entries.get(key)
  }

  /** All keys as a plain object. */
  object(): Record<string, unknown> {
    return Object.fromEntries(this.#entries)
  }

  has(key: string): boolean {
    return this.#entries.has(key)
  }

  /** Keys with a value that nothing has asked for. */
  unused(): string[] {
    return [...this.#entries.keys()].filter((key) => !this.#used.has(key) && this.#entries.get(key) !== null)
  }

  invalid(key: string, expected: string): SwapError {
    return new SwapError('SWAP_MODEL_CONFIG', `"${this.file}": ${key} is ${show(this.get(key))}, not ${expected}`, {
      hint: 'get the file again, or correct it',
    })
  }

  unsupported(key: string, hint?: string): SwapError {
    return new SwapError('SWAP_MODEL_UNSUPPORTED', `"${this.file}": ${key} ${show(this.get(key))} is not supported`, {
      hint: hint ?? 'choose a model of the Stable Diffusion 1.x, 2.x or XL architecture',
    })
  }

  /** A whole number from `min` to `max`; `fallback` when the key is absent or null. */
  integer(key: string, fallback: number, min = 1, max = MAX_SIZE): number {
    const value = this.get(key) ?? fallback
    if (!isInteger(value, min, max)) throw this.invalid(key, `a whole number from ${min} to ${max}`)
    return value
  }

  number(key: string, fallback: number): number {
    const value = this.get(key) ?? fallback
    if (typeof value !== 'number' || Number.isNaN(value)) throw this.invalid(key, 'a number')
    return value
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.get(key) ?? fallback
    if (typeof value !== 'boolean') throw this.invalid(key, 'true or false')
    return value
  }

  string(key: string, fallback: string): string {
    const value = this.get(key) ?? fallback
    if (typeof value !== 'string') throw this.invalid(key, 'a string')
    return value
  }

  strings(key: string, fallback: string[]): string[] {
    const value = this.get(key) ?? fallback
    if (!Array.isArray(value) || !value.every((one): one is string => typeof one === 'string')) {
      throw this.invalid(key, 'a list of strings')
    }
    return value
  }

  integers(key: string, fallback: number[], min = 1, max = MAX_SIZE): number[] {
    const value = this.get(key) ?? fallback
    if (!Array.isArray(value) || !value.every((one): one is number => isInteger(one, min, max))) {
      throw this.invalid(key, `a list of whole numbers from ${min} to ${max}`)
    }
    return value
  }

  /** One whole number for all of `count` places, or a list of `count`. */
  perLevel(key: string, count: number, fallback: number, min = 1, max = MAX_SIZE): number[] {
    const value = this.get(key) ?? fallback
    if (isInteger(value, min, max)) return new Array<number>(count).fill(value)
    const list = this.integers(key, [], min, max)
    if (list.length !== count) throw this.invalid(key, `a whole number or a list of ${count}`)
    return list
  }

  /** Raises `SWAP_MODEL_UNSUPPORTED` unless the key is absent, null, or has a value that changes nothing. */
  neutral(key: string, ...values: unknown[]): void {
    const value = this.get(key)
    if (value === undefined || value === null || values.includes(value)) return
    throw this.unsupported(key)
  }

  /** Marks keys as known that have no part in the result. */
  ignore(...keys: string[]): void {
    for (const key of keys) this.#used.add(key)
  }
}

function isInteger(value: unknown, min: number, max: number): value is number {
  return Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max
}
