/** The zip file around a pickle of torch.save(): stored entries, of which only the places are read. */
import { type FileHandle, open } from 'node:fs/promises'
import type { Entry, ZipFile } from 'yauzl'
import { SwapError } from '../errors.ts'
import { fileError } from '../files.ts'
import { show } from '../model/json.ts'
import { damagedPickle, refusePickle } from './unpickler.ts'

/** Where an entry's bytes lie. */
export interface Place {
  begin: number
  end: number
}

/** A file or a buffer, read in pieces. */
export interface Bytes {
  /** What messages call it. */
  name: string
  size: number
  read(place: Place): Promise<Uint8Array>
}

/**
 * By its first nine bytes: a zip archive, or a pickle without one. A safetensors file may begin with the same byte as a
 * pickle, but its eight bytes of length end in zero and a brace follows.
 */
export function isTorchFile(head: Uint8Array): boolean {
  return isZip(head) || isPickle(head)
}

function isZip([a, b, c, d]: Uint8Array): boolean {
  return a === 0x50 && b === 0x4b && c === 3 && d === 4
}

/** A protocol's number first, as in all pickles since 2003. */
function isPickle(head: Uint8Array): boolean {
  return head[0] === 0x80 && head[1]! <= 5 && !(head[7] === 0 && head[8] === 0x7b)
}

/** No checkpoint has as many tensors. */
const ENTRIES = 100_000

/**
 * Opens a file or a buffer as the entries of its archive, for as long as `work` takes.
 *
 * @throws SwapError `SWAP_FILE_PICKLE_LEGACY` for a pickle without an archive, `SWAP_FILE_PICKLE`,
 *   `SWAP_FILE_PICKLE_DAMAGED`, `SWAP_FILE_…`
 */
export async function withArchive<T>(
  source: string | Uint8Array,
  name: string,
  work: (entries: ReadonlyMap<string, Place>, bytes: Bytes) => Promise<T>,
): Promise<T> {
  if (typeof source !== 'string') {
    const buffer = Buffer.from(source.buffer, source.byteOffset, source.byteLength)
    const bytes = {
      name,
      size: buffer.length,
      read: async ({ begin, end }: Place) => buffer.subarray(begin, end),
    }
    return await work(await readEntries(bytes, (yauzl) => yauzl.fromBufferPromise(buffer)), bytes)
  }
  const handle = await open(source, 'r').catch((error: unknown) => {
    throw fileError(error, source, 'read')
  })
  try {
    const { size } = await handle.stat()
    const bytes = { name: source, size, read: (place: Place) => readPlace(handle, place, source) }
    return await work(await readEntries(bytes, (yauzl) => yauzl.fromFdPromise(handle.fd, { autoClose: false })), bytes)
  } catch (error) {
    throw fileError(error, source, 'read')
  } finally {
    await handle.close().catch(() => {})
  }
}

async function readPlace(handle: FileHandle, { begin, end }: Place, source: string): Promise<Uint8Array> {
  const bytes = new Uint8Array(end - begin)
  for (let done = 0; done < bytes.length; ) {
    const { bytesRead } = await handle.read(bytes, done, bytes.length - done, begin + done)
    if (bytesRead === 0) throw damagedPickle(source, 'it ended while it was read')
    done += bytesRead
  }
  return bytes
}

type Yauzl = typeof import('yauzl')

async function readEntries(bytes: Bytes, openZip: (yauzl: Yauzl) => Promise<ZipFile>): Promise<Map<string, Place>> {
  const { name, size } = bytes
  const head = await bytes.read({ begin: 0, end: Math.min(9, size) })
  if (isPickle(head)) {
    throw new SwapError('SWAP_FILE_PICKLE_LEGACY', `"${name}" is a pickle of before PyTorch 1.6, without an archive`, {
      hint: 'load it in PyTorch and save it again, best as safetensors',
    })
  }
  if (!isZip(head)) throw damagedPickle(name, 'it is no file of torch.save()')
  const { default: yauzl } = await import('yauzl')
  // Never closed: it holds nothing but the file, which is not its own to close.
  let zip: ZipFile
  try {
    zip = await openZip(yauzl)
  } catch (cause) {
    throw damagedPickle(name, `no archive is found in it (${words(cause)})`, cause)
  }
  try {
    if (zip.entryCount > ENTRIES) throw refusePickle(name, `its archive has ${zip.entryCount} entries`)
    const places = new Map<string, Place>()
    for (const entry of await listEntries(zip)) {
      if (entry.fileName.endsWith('/')) continue
      if (entry.compressionMethod !== 0 || (entry.generalPurposeBitFlag & 1) !== 0) {
        throw refusePickle(name, `${show(entry.fileName)} is compressed or encrypted in its archive`)
      }
      const { fileDataStart: begin } = await zip.readLocalFileHeaderPromise(entry, { minimal: true })
      const end = begin + entry.uncompressedSize
      if (!Number.isSafeInteger(end) || end > size || entry.compressedSize !== entry.uncompressedSize) {
        throw damagedPickle(name, `${show(entry.fileName)} ends at byte ${end}, the file at ${size}`)
      }
      if (places.has(entry.fileName)) throw refusePickle(name, `${show(entry.fileName)} stands twice in its archive`)
      places.set(entry.fileName, { begin, end })
    }
    return places
  } catch (error) {
    throw error instanceof SwapError ? error : damagedPickle(name, words(error), error)
  }
}

function listEntries(zip: ZipFile): Promise<Entry[]> {
  return new Promise((done, fail) => {
    const entries: Entry[] = []
    zip.on('entry', (entry: Entry) => {
      entries.push(entry)
      zip.readEntry()
    })
    zip.on('end', () => done(entries))
    zip.on('error', fail)
    zip.readEntry()
  })
}

function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
