/** Files: written whole or not at all; what the system says about them becomes a coded error. */
import { randomBytes } from 'node:crypto'
import { rmSync } from 'node:fs'
import { type FileHandle, mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { isSystemError, SwapError, type SwapErrorCode } from './errors.ts'

const SYSTEM_ERRORS: Record<string, { code: SwapErrorCode; what: string; hint: string }> = {
  EACCES: { code: 'SWAP_FILE_PERMISSION', what: 'no permission', hint: 'choose a folder that you may use' },
  EPERM: { code: 'SWAP_FILE_PERMISSION', what: 'no permission', hint: 'choose a folder that you may use' },
  EROFS: { code: 'SWAP_FILE_PERMISSION', what: 'the file system is read-only', hint: 'choose another folder' },
  ENOSPC: { code: 'SWAP_FILE_DISK_FULL', what: 'the disk is full', hint: 'free some space, or choose another disk' },
  EDQUOT: { code: 'SWAP_FILE_DISK_FULL', what: 'the disk quota is used up', hint: 'free some space' },
  ENOENT: { code: 'SWAP_FILE_NOT_FOUND', what: 'no such file or folder', hint: 'check the path' },
  ENOTDIR: { code: 'SWAP_FILE_NOT_FOUND', what: 'a part of the path is not a folder', hint: 'check the path' },
  EISDIR: { code: 'SWAP_FILE_IS_DIRECTORY', what: 'it is a folder', hint: 'give the name of a file' },
  EMFILE: { code: 'SWAP_FILE_TOO_MANY_OPEN', what: 'too many open files', hint: 'raise the limit (ulimit -n)' },
  ENAMETOOLONG: { code: 'SWAP_FILE_NAME', what: 'the name is too long', hint: 'choose a shorter name' },
}

/**
 * The error to raise for a failed file system call: `SWAP_FILE_…` where the cause is known,
 * `SWAP_FILE_FAILED` for any other system error, and `error` itself where it is not one.
 */
export function fileError(error: unknown, path: string, doing: 'read' | 'write'): unknown {
  if (!isSystemError(error)) return error
  const known = SYSTEM_ERRORS[error.code]
  const code = known?.code ?? 'SWAP_FILE_FAILED'
  const what = known?.what ?? `the system says ${error.code}`
  return new SwapError(code, `cannot ${doing} "${path}": ${what}`, { hint: known?.hint, cause: error })
}

/** Temporary files that are being written; those of a process that is told to exit in the middle go with it. */
const unfinished = new Set<string>()

function removeUnfinished(): void {
  for (const path of unfinished) rmSync(path, { force: true })
}

/**
 * Writes a file whole or not at all: to a temporary name in the same folder, flushed to the disk, then renamed.
 * A failure leaves neither a temporary file nor a changed target.
 *
 * @throws SwapError `SWAP_FILE_PERMISSION`, `SWAP_FILE_DISK_FULL`, `SWAP_FILE_NOT_FOUND`, `SWAP_FILE_IS_DIRECTORY`, …
 */
export async function writeFileAtomic(path: string, data: Uint8Array | string): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path).slice(0, 64)}.${randomBytes(6).toString('hex')}.tmp`)
  let handle: FileHandle | undefined
  try {
    // rename() onto a folder fails with different codes on different systems
    if ((await stat(path).catch(() => undefined))?.isDirectory()) {
      throw new SwapError('SWAP_FILE_IS_DIRECTORY', `cannot write "${path}": it is a folder`, {
        hint: 'give the name of a file',
      })
    }
    if (!process.listeners('exit').includes(removeUnfinished)) process.on('exit', removeUnfinished)
    unfinished.add(temporary)
    handle = await open(temporary, 'wx')
    await handle.writeFile(data)
    await handle.sync()
    await handle.close()
    handle = undefined
    await rename(temporary, path)
  } catch (error) {
    await handle?.close().catch(() => {})
    await rm(temporary, { force: true }).catch(() => {})
    throw fileError(error, path, 'write')
  } finally {
    unfinished.delete(temporary)
  }
}

/** Makes a folder and its parents. */
export async function makeDirectory(path: string): Promise<void> {
  await mkdir(path, { recursive: true }).catch((error: unknown) => {
    if (isSystemError(error) && error.code === 'EEXIST') {
      throw new SwapError('SWAP_FILE_EXISTS', `cannot make the folder "${path}": a file of that name exists`, {
        hint: 'choose another folder',
        cause: error,
      })
    }
    throw fileError(error, path, 'write')
  })
}

/**
 * Reads a whole file of at most `limit` bytes; the limit is checked before anything is read.
 *
 * @throws SwapError `SWAP_FILE_NOT_FOUND`, `SWAP_FILE_TOO_LARGE`, `SWAP_FILE_IS_DIRECTORY`, …
 */
export async function readFileLimited(path: string, limit: number): Promise<Uint8Array> {
  let handle: FileHandle | undefined
  try {
    handle = await open(path, 'r')
    const { size } = await handle.stat()
    if (size > limit) {
      throw new SwapError('SWAP_FILE_TOO_LARGE', `"${path}" has ${size} bytes; at most ${limit} are read`, {
        hint: 'is it the right file?',
      })
    }
    return await handle.readFile()
  } catch (error) {
    throw fileError(error, path, 'read')
  } finally {
    await handle?.close().catch(() => {})
  }
}

/** Why bytes are no safetensors file, for a sentence that names the file itself. */
export function safetensorsReason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  return `as a safetensors file, ${message.replace(/^"data": /, '')}`
}
