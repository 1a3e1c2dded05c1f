/**
 * Resume files: what a trainer needs to go on as if it had never stopped, and what must be the same for
 * the bits to be the same. A safetensors file: the trainer's tensors, and its settings as metadata.
 */
import { createHash } from 'node:crypto'
import { open, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { SwapError } from './errors.ts'
import { fileError, readFileLimited, safetensorsReason } from './files.ts'
import { readSafetensors, writeSafetensors } from './model/safetensors.ts'
import type { TrainerState } from './native.ts'

const FORMAT = 'swap-resume'
/** The trainer's state has three copies of a module of a few MB. */
const MAX_BYTES = 2 ** 30

/** What a learning was asked for; options left out of a resumed one are taken from here. */
export interface LearnSettings {
  name: string
  class: string
  steps: number
  learningRate: number
  seed: number
  batch: number
  stages: number
  attentionWeight: number
  /** Empty: all. */
  attentionLevels: number[]
  conditioning: 'split' | 'shared'
  parametrization: 'attention' | 'direct'
  templates: string[]
}

/** What it ran on. */
export interface LearnSurroundings {
  /** Hashes of what went in. */
  image: string
  mask: string
  model: string
  device: string
  dtype: string
  threads: number
  /** The CPU's features and LibTorch's version: other ones take other roads through the arithmetic. */
  machine: string
}

export interface ResumeFile {
  settings: LearnSettings
  surroundings: LearnSurroundings
  state: TrainerState
}

/** What may differ in a resumed learning: a longer one, and what its subject is called. */
const FREE = new Set<string>(['steps', 'name'])

const HINTS: Record<string, string> = {
  image: 'give the photo and the crop that it began with',
  mask: 'give the mask that it began with, or none',
  model: 'open the model that it began with',
  device: 'open the model with the device that it began with',
  dtype: 'open the model with the dtype that it began with',
  threads: 'open the model with the number of threads that it began with',
  machine: 'resume it on the machine and with the LibTorch that it began with',
}

/** Hex sha256 of pictures, masks and specs. */
export function hash(...parts: (Uint8Array | Float32Array | string)[]): string {
  const sum = createHash('sha256')
  for (const part of parts) {
    sum.update(typeof part === 'string' ? part : new Uint8Array(part.buffer, part.byteOffset, part.byteLength))
  }
  return sum.digest('hex')
}

/** The bytes of a resume file. */
export function writeResume({ settings, surroundings, state }: ResumeFile): Uint8Array {
  return writeSafetensors(state.tensors, {
    format: FORMAT,
    version: '1',
    step: String(state.step),
    settings: JSON.stringify(settings),
    surroundings: JSON.stringify(surroundings),
  })
}

/**
 * Reads a resume file.
 *
 * @param source its path, or its bytes
 * @throws SwapError `SWAP_RESUME_INVALID`: it is none, or a damaged one
 */
export async function readResume(source: string | Uint8Array): Promise<ResumeFile> {
  const what = typeof source === 'string' ? `"${source}"` : 'the buffer'
  const bytes = typeof source === 'string' ? await readFileLimited(source, MAX_BYTES) : source
  let file: ReturnType<typeof readSafetensors>
  try {
    file = readSafetensors(bytes)
  } catch (cause) {
    throw invalid(what, safetensorsReason(cause), cause)
  }
  const metadata = new Map(Object.entries(file.metadata))
  if (metadata.get('format') !== FORMAT) throw invalid(what, 'its metadata does not say so')
  if (metadata.get('version') !== '1')
    throw invalid(what, `it has the version ${metadata.get('version')}; this release reads 1`)
  const step = Number(metadata.get('step'))
  if (!Number.isSafeInteger(step) || step < 0) throw invalid(what, `it has the step ${metadata.get('step')}`)
  for (const { name, data } of file.tensors) {
    if (!data.every(Number.isFinite)) throw invalid(what, `its tensor "${name}" has values that are not finite`)
  }
  return {
    settings: readObject(metadata.get('settings'), SETTINGS, what, 'settings'),
    surroundings: readObject(metadata.get('surroundings'), SURROUNDINGS, what, 'surroundings'),
    state: { step, tensors: file.tensors },
  }
}

type Kind = 'string' | 'number' | 'strings' | 'numbers'

const SETTINGS: Record<keyof LearnSettings, Kind> = {
  name: 'string',
  class: 'string',
  steps: 'number',
  learningRate: 'number',
  seed: 'number',
  batch: 'number',
  stages: 'number',
  attentionWeight: 'number',
  attentionLevels: 'numbers',
  conditioning: 'string',
  parametrization: 'string',
  templates: 'strings',
}

const SURROUNDINGS: Record<keyof LearnSurroundings, Kind> = {
  image: 'string',
  mask: 'string',
  model: 'string',
  device: 'string',
  dtype: 'string',
  threads: 'number',
  machine: 'string',
}

/** Kinds only: the settings go through the options' schema again before they are used. */
function readObject<T>(json: string | undefined, kinds: Record<keyof T, Kind>, what: string, part: string): T {
  let value: unknown
  try {
    value = JSON.parse(json ?? '')
  } catch (cause) {
    throw invalid(what, `its ${part} are not JSON`, cause)
  }
  const fields = new Map(Object.entries(typeof value === 'object' && value !== null ? value : {}))
  for (const [key, kind] of Object.entries(kinds) as [string, Kind][]) {
    const field = fields.get(key)
    const fits =
      kind === 'strings' || kind === 'numbers'
        ? Array.isArray(field) && field.every((item) => `${typeof item}s` === kind)
        : typeof field === kind
    if (!fits) throw invalid(what, `its ${part} have no ${key}`)
  }
  return Object.fromEntries(Object.keys(kinds).map((key) => [key, fields.get(key)])) as T
}

/**
 * Refuses to go on where the bits could not be the same.
 *
 * @throws SwapError `SWAP_RESUME_MISMATCH`, naming all that differs
 */
export function checkResume(file: ResumeFile, settings: LearnSettings, surroundings: LearnSurroundings): void {
  const differences = [
    ...compare(file.surroundings, surroundings),
    ...compare(file.settings, settings).filter(({ key }) => !FREE.has(key)),
  ]
  if (settings.steps < file.state.step) {
    differences.push({ key: 'steps', before: `${file.state.step} done`, now: String(settings.steps) })
  }
  const [first] = differences
  if (first === undefined) return
  const list = differences.map(({ key, before, now }) => `${key} (${before} then, ${now} now)`).join(', ')
  throw new SwapError('SWAP_RESUME_MISMATCH', `the learning cannot be resumed, for other than before is: ${list}`, {
    hint: HINTS[first.key] ?? `leave the option out: the resume file has the value that it began with`,
  })
}

function compare<T extends object>(before: T, now: T): { key: string; before: string; now: string }[] {
  return Object.entries(before).flatMap(([key, value]) => {
    const [was, is] = [JSON.stringify(value), JSON.stringify(now[key as keyof T])]
    return was === is ? [] : [{ key, before: short(was), now: short(is) }]
  })
}

function short(json: string): string {
  return json.length > 24 ? `${json.slice(0, 12)}…` : json
}

/**
 * Refuses to write a checkpoint over anything but a resume file: a photo's name typed in the wrong place
 * would cost the photo.
 *
 * @throws SwapError `SWAP_FILE_EXISTS`
 */
export async function checkCheckpointPath(path: string): Promise<void> {
  const head = Buffer.alloc(4096)
  let length = 0
  try {
    const handle = await open(path, 'r')
    try {
      length = (await handle.read(head, 0, head.length, 0)).bytesRead
    } finally {
      await handle.close()
    }
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    // a checkpoint that could not be written would be noticed after the first fifty steps only
    if (missing && (await stat(dirname(path)).catch(() => undefined))?.isDirectory()) return
    throw fileError(error, path, 'write')
  }
  if (length > 0 && !head.subarray(0, length).includes(`"${FORMAT}"`)) {
    throw new SwapError('SWAP_FILE_EXISTS', `"${path}" is there already and is not a resume file`, {
      hint: 'choose another path for the checkpoint',
    })
  }
}

function invalid(what: string, why: string, cause?: unknown): SwapError {
  return new SwapError('SWAP_RESUME_INVALID', `${what} is not a resume file: ${why}`, {
    hint: 'resume files are written where the option "checkpoint" says',
    cause,
  })
}
