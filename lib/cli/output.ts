/** What a command says, and where: people read lines and a bar, programs read one JSON object a line. */

import { SingleBar } from 'cli-progress'
import { SwapError } from '../errors.ts'
import { asTyped } from './flags.ts'

export interface OutputOptions {
  /** One JSON object a line instead of text. */
  json?: boolean
  /** Standard output carries a picture or a subject: all else goes to standard error. */
  binary?: boolean
  stdout?: NodeJS.WriteStream
  stderr?: NodeJS.WriteStream
}

/** One line of `--json`. `type` tells the lines apart. */
export interface OutputEvent {
  type: 'note' | 'progress' | 'warning' | 'result' | 'error'
  [key: string]: unknown
}

/** How far a task is. */
export interface Step {
  done: number
  total: number
  /** Shown after the bar: losses, time left. */
  detail?: string
  /** Goes into the JSON line. */
  data?: Record<string, unknown>
}

/** Plain lines are said at each of these parts of the way, not at each step. */
const PLAIN_PARTS = 10
/** A task of more units than this (bytes) is not told unit by unit to programs either. */
const MANY = 1_000_000
const MANY_PARTS = 100

export class Output {
  readonly json: boolean
  readonly #results: NodeJS.WriteStream
  readonly #notes: NodeJS.WriteStream
  readonly #warned = new Set<string>()
  #bar: { label: string; bar: SingleBar } | undefined
  /** The last part of the way that was said, for each task. */
  readonly #parts = new Map<string, number>()

  constructor({ json = false, binary = false, stdout = process.stdout, stderr = process.stderr }: OutputOptions = {}) {
    this.json = json
    this.#results = binary ? stderr : stdout
    this.#notes = json ? this.#results : stderr
  }

  /** True when a bar can be drawn. */
  get terminal(): boolean {
    return !this.json && this.#notes.isTTY === true && process.env.TERM !== 'dumb'
  }

  #line(stream: NodeJS.WriteStream, text: string): void {
    // A line in the middle of a bar would be drawn over.
    this.endProgress()
    stream.write(`${text}\n`)
  }

  #event(event: OutputEvent): void {
    this.#results.write(`${JSON.stringify(event)}\n`)
  }

  /** Something on the way, for a person; `data` is for programs. */
  note(text: string, data: Record<string, unknown> = {}): void {
    if (this.json) this.#event({ type: 'note', message: text, ...data })
    else this.#line(this.#notes, text)
  }

  /** Said once, however often it comes up. */
  warn(text: string): void {
    if (this.#warned.has(text)) return
    this.#warned.add(text)
    if (this.json) this.#event({ type: 'warning', message: asTyped(text) })
    else this.#line(this.#notes, `warning: ${asTyped(text)}`)
  }

  /** What the command was asked for. */
  result(data: Record<string, unknown>, text: string): void {
    if (this.json) this.#event({ type: 'result', ...data })
    else this.#line(this.#results, text)
  }

  error(error: unknown, extra: Record<string, unknown> = {}): void {
    const described = describeError(error)
    const { code } = described
    const [message, hint] = [asTyped(described.message), described.hint && asTyped(described.hint)]
    if (this.json) {
      this.#event({ type: 'error', code, message, hint, ...extra })
      return
    }
    this.#line(this.#notes, `error: ${message}${code ? ` [${code}]` : ''}`)
    if (hint) this.#line(this.#notes, `hint: ${hint}`)
    if (process.env.SWAP_DEBUG && error instanceof Error) this.#line(this.#notes, error.stack ?? '')
  }

  /** Draws, or says sparsely, how far `label` is. */
  progress(label: string, step: Step): void {
    if (this.json) {
      if (step.total > MANY && !this.#isNextPart(label, step, MANY_PARTS)) return
      this.#event({ type: 'progress', task: label, done: step.done, total: step.total, ...step.data })
      return
    }
    if (this.terminal) {
      this.#draw(label, step)
      return
    }
    if (step.total <= 0 || !this.#isNextPart(label, step, PLAIN_PARTS)) return
    const percent = Math.floor((100 * step.done) / step.total)
    this.#notes.write(`${label}: ${percent} %${step.detail ? ` · ${step.detail}` : ''}\n`)
  }

  #isNextPart(label: string, { done, total }: Step, parts: number): boolean {
    const part = Math.floor((parts * done) / total)
    if ((this.#parts.get(label) ?? -1) >= part) return false
    this.#parts.set(label, part)
    return true
  }

  #draw(label: string, step: Step): void {
    if (this.#bar?.label !== label) {
      this.endProgress()
      const bar = new SingleBar({
        format: `${label} {bar} {percentage} %  {detail}`,
        barCompleteChar: '█',
        barIncompleteChar: '░',
        barsize: Math.max(10, Math.min(30, (this.#notes.columns ?? 80) - 68)),
        hideCursor: true,
        linewrap: false,
        gracefulExit: false,
        stream: this.#notes,
      })
      bar.start(step.total, step.done, { detail: step.detail ?? '' })
      this.#bar = { label, bar }
    }
    this.#bar.bar.setTotal(step.total)
    this.#bar.bar.update(step.done, { detail: step.detail ?? '' })
    if (step.total > 0 && step.done >= step.total) this.endProgress()
  }

  /** Leaves the bar as it stands and the cursor below it. */
  endProgress(): void {
    this.#bar?.bar.stop()
    this.#bar = undefined
  }
}

/** Code, message and hint of whatever was thrown. */
export function describeError(error: unknown): { code?: string; message: string; hint?: string } {
  if (error instanceof SwapError)
    return { code: error.code, message: error.message, ...(error.hint && { hint: error.hint }) }
  if (!(error instanceof Error)) return { message: String(error) }
  const { code, hint } = error as { code?: unknown; hint?: unknown }
  return {
    ...(typeof code === 'string' && { code }),
    message: error.message,
    ...(typeof hint === 'string' && hint && { hint }),
  }
}

/** `75` -> `1 min 15 s`; `2.53` -> `2.5 s`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds))
  if (seconds < 9.95) return `${Math.max(0, seconds).toFixed(1)} s`
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
}

/** ` · 12 s left`, or nothing where that is not known; a figure that jitters is of no use. */
export function timeLeft(seconds: number): string {
  return seconds >= 0 ? ` · ${seconds < 10 ? `${Math.round(seconds)} s` : duration(seconds)} left` : ''
}

/** For programs: milliseconds are enough. */
export function rounded(seconds: number): number {
  return Math.round(seconds * 1000) / 1000
}

export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(bytes < 10e6 ? 1 : 0)} MB`
}
