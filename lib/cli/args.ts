/** Arguments: numbers, streams, and the command line that was typed. */

import { InvalidArgumentError } from 'commander'
import { usage } from './run.ts'

/** Parses an option's number; its range is the library's to check. */
export function number(value: string): number {
  const parsed = value.trim() === '' ? Number.NaN : Number(value)
  if (!Number.isFinite(parsed)) throw new InvalidArgumentError('It must be a number.')
  return parsed
}

/** `1,2` -> `[1, 2]`; `all` stays. */
export function levels(value: string): number[] | 'all' {
  return value === 'all' ? value : value.split(',').map(number)
}

/** `left,top,size` in pixels; `center` stays. */
export function crop(value: string): 'center' | { left: number; top: number; size: number } {
  if (value === 'center') return value
  const [left, top, size, ...rest] = value.split(',').map(number)
  if (left === undefined || top === undefined || size === undefined || rest.length > 0)
    throw new InvalidArgumentError('It must be "center" or left,top,size in pixels.')
  return { left, top, size }
}

/** For options that may be given more than once. */
export function collect(value: string, before: string[] = []): string[] {
  return [...before, value]
}

/** A ControlNet as it is typed: `model=…,image=…,scale=…,start=…,end=…`, of which the first two are needed. */
export interface ControlArgument {
  model: string
  image: string
  scale?: number
  start?: number
  end?: number
}

/** For `--control`, which may be given more than once. A comma belongs to a path unless a name and `=` follow it. */
export function control(value: string, before: ControlArgument[] = []): ControlArgument[] {
  const form = 'It must be model=PATH,image=PATH and, if you like, scale=, start= and end= with numbers.'
  const fields = new Map<string, string>()
  for (const part of value.split(/,(?=[a-z]+=)/)) {
    const [, name, text] = /^([a-z]+)=(.*)$/s.exec(part) ?? []
    if (name === undefined || text === undefined || !CONTROL_FIELDS.includes(name) || fields.has(name)) {
      throw new InvalidArgumentError(form)
    }
    fields.set(name, text)
  }
  const [model, image] = [fields.get('model'), fields.get('image')]
  if (!model || !image) throw new InvalidArgumentError(form)
  const numbers = [...fields].filter(([name]) => name !== 'model' && name !== 'image')
  return [...before, { model, image, ...Object.fromEntries(numbers.map(([name, text]) => [name, number(text)])) }]
}

const CONTROL_FIELDS = ['model', 'image', 'scale', 'start', 'end']

/** All of standard input; refused where a person would have to type it. */
export async function readStdin(what: string): Promise<Buffer> {
  if (process.stdin.isTTY)
    throw usage(`"-" reads ${what} from standard input, which is a terminal`, 'pipe it in: … < FILE')
  const chunks: Buffer[] = []
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

/** Writes to standard output, to the end. */
export function writeStdout(bytes: Uint8Array): Promise<void> {
  return new Promise((done, fail) => process.stdout.write(bytes, (error) => (error ? fail(error) : done())))
}

function quote(argument: string): string {
  return /^[\w@%+=:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", `'\\''`)}'`
}

/** The command line that was typed, with other values for some options; for a POSIX shell. */
export function commandLine(argv: readonly string[], changes: Record<string, string>): string {
  const kept: string[] = []
  for (let index = 0; index < argv.length; index += 1) {
    const [name = ''] = argv[index]!.split('=', 1)
    if (!(name in changes)) kept.push(argv[index]!)
    else if (!argv[index]!.includes('=')) index += 1
  }
  for (const [name, value] of Object.entries(changes)) kept.push(name, value)
  // npm says so of what it runs as `npx swap`, where there may be no `swap` on the PATH.
  const program = process.env.npm_command === 'exec' ? ['npx', 'swap'] : ['swap']
  return [...program, ...kept].map(quote).join(' ')
}
