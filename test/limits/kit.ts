/** Things gone wrong, made on purpose: models with one broken file, hostile files, places that cannot be written. */
import { execFile, execFileSync, type SpawnSyncReturns, spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterAll } from 'vitest'
import { Personalizer, SwapError, type SwapErrorCode } from '../../lib/index.ts'
import { packageRoot } from '../../lib/paths.ts'

export const MINI = join(packageRoot(), 'models', 'mini')
export const PHOTO = join(MINI, 'people', '0.png')
export const UNET = 'unet/diffusion_pytorch_model.safetensors'
export const VAE = 'vae/diffusion_pytorch_model.safetensors'
export const TEXT = 'text_encoder/model.safetensors'

/** A file's new content, from its old; null: none. */
export type Change = (before: Buffer) => Uint8Array | string | null
type Json = Record<string, unknown>

const made: string[] = []
afterAll(() => {
  for (const path of made.splice(0)) rmSync(path, { recursive: true, force: true })
})

/** A folder that is removed after the test file; others may look into it. */
export function temporary(): string {
  const path = mkdtempSync(join(tmpdir(), 'swap-limits-'))
  chmodSync(path, 0o755)
  made.push(path)
  return path
}

/** An input in a folder of its own. */
export function file(name: string, content: Uint8Array | string): string {
  const path = join(temporary(), name)
  writeFileSync(path, content)
  return path
}

/** The embedded model with some of its files changed; the others are links. A name that ends in `/` removes a folder. */
export function modelWith(changes: Record<string, Change>): string {
  const folder = temporary()
  for (const file of readdirSync(MINI, { recursive: true, withFileTypes: true })) {
    const path = join(file.parentPath, file.name)
    const name = path.slice(MINI.length + 1)
    if (!file.isFile() || `${name.split('/')[0]}/` in changes || name in changes) continue
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    symlinkSync(path, join(folder, name))
  }
  for (const [name, change] of Object.entries(changes)) {
    if (name.endsWith('/')) continue
    const source = join(MINI, name)
    const content = change(existsSync(source) ? readFileSync(source) : Buffer.of())
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    if (content !== null) writeFileSync(join(folder, name), content)
  }
  return folder
}

/** Other values for some keys of a JSON file. */
export function json(keys: Json): Change {
  return (before) => JSON.stringify({ ...(JSON.parse(before.toString()) as Json), ...keys })
}

/** A safetensors file of a header as given, in any words. */
export function safetensors(header: unknown, data: Uint8Array = new Uint8Array(), length?: bigint): Buffer {
  const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(length ?? BigInt(text.length))
  return Buffer.concat([prefix, text, data])
}

interface Entry {
  dtype: string
  shape: number[]
  data_offsets: [number, number]
}

/** Another header before the same bytes. */
export function header(change: (tensors: Record<string, Entry>, first: Entry, name: string) => void): Change {
  return (before) => {
    const begin = 8 + Number(before.readBigUInt64LE())
    const tensors = JSON.parse(before.subarray(8, begin).toString()) as Record<string, Entry>
    const name = Object.keys(tensors).find((key) => key !== '__metadata__')!
    change(tensors, tensors[name]!, name)
    return safetensors(tensors, before.subarray(begin))
  }
}

/** NaN in all tensors of half precision whose name matches. */
export function nan(names: RegExp): Change {
  return (before) => {
    const begin = 8 + Number(before.readBigUInt64LE())
    const tensors = JSON.parse(before.subarray(8, begin).toString()) as Record<string, Entry>
    const broken = Buffer.from(before)
    for (const [name, entry] of Object.entries(tensors)) {
      if (!names.test(name)) continue
      const [from, to] = entry.data_offsets
      for (let at = from; at < to; at += 2) broken.writeUInt16LE(0x7e00, begin + at)
    }
    return broken
  }
}

/** A subject's file in any words. */
export function subjectFile(
  metadata: Record<string, string> = {},
  { shape = [1, 1, 192], dtype = 'F32', fill = 0 }: { shape?: number[]; dtype?: string; fill?: number } = {},
): Buffer {
  const values = new Float32Array(2 * shape.reduce((a, b) => a * b, 1)).fill(fill)
  const half = values.byteLength / 2
  const words = { format: 'swap-subject', version: '1', name: 'alice', class: 'person', ...metadata }
  const tensors = {
    __metadata__: words,
    'sefi.k': { dtype, shape, data_offsets: [0, half] },
    'sefi.v': { dtype, shape, data_offsets: [half, 2 * half] },
  }
  return safetensors(tensors, new Uint8Array(values.buffer))
}

/** A file that claims a size and holds nothing. */
export function sparse(path: string, bytes: number, begin: Uint8Array = new Uint8Array()): string {
  writeFileSync(path, begin)
  truncateSync(path, bytes)
  return path
}

/** Opens a model, and uses it where opening is not what fails. */
export async function opening(
  options: object,
  use: (personalizer: Personalizer) => PromiseLike<unknown> = async () => {},
): Promise<void> {
  const personalizer = await Personalizer.open({ dtype: 'float32', ...options })
  try {
    await use(personalizer)
  } finally {
    await personalizer.close()
  }
}

/** The command line's error of `--json` as what was thrown; its exit code must be the kind's. */
export async function command(folder: string, ...words: string[]): Promise<void> {
  const cli = join(packageRoot(), 'dist', 'cli.cjs')
  const { code, stdout } = await new Promise<{ code: number; stdout: string }>((resolve) => {
    execFile(process.execPath, [cli, ...words, '--json'], { cwd: folder }, (error, stdout) =>
      resolve({ code: error === null ? 0 : Number(error.code), stdout }),
    )
  })
  if (code === 0) return
  const error = stdout
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as { type: string; code: SwapErrorCode; message: string })
    .findLast(({ type }) => type === 'error')
  if (!error) throw new Error(`exit code ${code} and no error: ${stdout}`)
  const wanted = error.code.startsWith('SWAP_OPTION') ? 2 : 1
  if (code !== wanted) throw new Error(`exit code ${code}, not ${wanted}, for ${error.code}`)
  throw new SwapError(error.code, error.message)
}

/** Runs `body` as a user without rights: as nobody where the tests run as root. */
export async function withoutRights(body: () => PromiseLike<unknown>): Promise<void> {
  const root = process.geteuid?.() === 0
  if (root) process.seteuid!(65_534)
  try {
    await body()
  } finally {
    if (root) process.seteuid!(0)
  }
}

const run = (program: string, ...words: string[]): SpawnSyncReturns<Buffer> => spawnSync(program, words)

/** A file system of 64 KB, full to the last page; undefined where none may be mounted. */
export function fullDisk(): { path: string; remove(): void } | undefined {
  if (process.platform !== 'linux') return undefined
  const path = temporary()
  if (run('mount', '-t', 'tmpfs', '-o', 'size=64k', 'none', path).status !== 0) return undefined
  try {
    for (let k = 0; ; k++) writeFileSync(join(path, `filler-${k}`), Buffer.alloc(4096))
  } catch {
    // as it should be
  }
  return { path, remove: () => void execFileSync('umount', [path]) }
}
