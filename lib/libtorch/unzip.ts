/** Unpacking an archive that came from outside: nothing it holds may land outside the target folder. */

import { createWriteStream } from 'node:fs'
import { chmod, mkdir, symlink } from 'node:fs/promises'
import { dirname, resolve, sep } from 'node:path'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Entry, ZipFile } from 'yauzl'
import { SwapError } from '../errors.ts'
import { fileError } from '../files.ts'

export interface UnzipOptions {
  /** Maps an entry's name to where it goes under the target; undefined leaves it out. */
  keep?: (name: string) => string | undefined
  signal?: AbortSignal | undefined
  onProgress?: ((done: number, total: number) => void) | undefined
  /** Called once with the bytes that unpacking will take, before anything is written. */
  onSize?: ((bytes: number) => Promise<void> | void) | undefined
}

const FILE_KIND = 0o170000
const SYMLINK = 0o120000

function bad(archive: string, what: string, cause?: unknown): SwapError {
  return new SwapError('SWAP_LIBTORCH_ARCHIVE', `${archive}: ${what}`, {
    hint: 'the archive is damaged or not what it should be; delete it and run `npx swap setup` again',
    cause,
  })
}

async function read(zip: ZipFile, entry: Entry): Promise<Readable> {
  return await new Promise((done, fail) =>
    zip.openReadStream(entry, (error, stream) => (error ? fail(error) : done(stream))),
  )
}

async function listEntries(zip: ZipFile): Promise<Entry[]> {
  const entries: Entry[] = []
  await new Promise<void>((done, fail) => {
    zip.on('entry', (entry: Entry) => {
      entries.push(entry)
      zip.readEntry()
    })
    zip.on('end', done)
    zip.on('error', fail)
    zip.readEntry()
  })
  return entries
}

/**
 * Unpacks `archive` into `target`, keeping the executable bits.
 *
 * @throws SwapError `SWAP_LIBTORCH_ARCHIVE` for what is no zip file, is damaged, or holds a name or a link that
 *   leads out of `target`; `SWAP_FILE_…`; the signal's reason when aborted.
 */
export async function unzip(archive: string, target: string, options: UnzipOptions = {}): Promise<void> {
  const { keep = (name) => name, signal, onProgress, onSize } = options
  const { default: yauzl } = await import('yauzl')
  const root = resolve(target)
  let zip: ZipFile
  try {
    zip = await new Promise<ZipFile>((done, fail) =>
      yauzl.open(archive, { lazyEntries: true, autoClose: false }, (error, opened) =>
        error ? fail(error) : done(opened),
      ),
    )
  } catch (error) {
    const wrapped = fileError(error, archive, 'read')
    throw wrapped instanceof SwapError ? wrapped : bad(archive, 'not a zip file', error)
  }
  try {
    // yauzl itself refuses absolute names, drive letters and `..`; the check below holds whatever it does.
    const entries = (await listEntries(zip)).flatMap((entry) => {
      const name = keep(entry.fileName)
      if (name === undefined) return []
      const path = resolve(root, name)
      if (path !== root && !path.startsWith(root + sep)) throw bad(archive, `the entry ${entry.fileName} leads outside`)
      return [{ entry, path }]
    })
    const total = entries.reduce((sum, { entry }) => sum + entry.uncompressedSize, 0)
    await onSize?.(total)
    let done = 0
    for (const { entry, path } of entries) {
      signal?.throwIfAborted()
      if (entry.fileName.endsWith('/')) {
        await mkdir(path, { recursive: true })
        continue
      }
      await mkdir(dirname(path), { recursive: true })
      const mode = entry.externalFileAttributes >>> 16
      const stream = await read(zip, entry)
      if ((mode & FILE_KIND) === SYMLINK) {
        const link = Buffer.concat(await stream.toArray()).toString('utf8')
        // Downwards only: then no chain of links can lead out either.
        if (link.startsWith('/') || link.includes('\\') || link.split('/').includes('..'))
          throw bad(archive, `the link ${entry.fileName} leads to ${link}`)
        await symlink(link, path)
        continue
      }
      const counted = stream.on('data', (chunk: Buffer) => {
        done += chunk.length
        onProgress?.(done, total)
      })
      await pipeline(counted, createWriteStream(path, { flags: 'wx' }), { signal })
      if (mode & 0o111) await chmod(path, 0o755)
    }
  } catch (error) {
    signal?.throwIfAborted()
    const wrapped = fileError(error, root, 'write')
    throw wrapped instanceof SwapError
      ? wrapped
      : bad(archive, wrapped instanceof Error ? wrapped.message : String(wrapped), error)
  } finally {
    zip.close()
  }
}
