/** How a picture came to be, written into its file so that it can be made again. */

/** Everything that made a picture; JSON-safe. */
export type Parameters = Record<string, unknown>

/** The two forms that a file carries: text as other tools write and read it, and all of it as JSON. */
export interface Description {
  text: string
  json: string
}

/**
 * The parameters in the text form that other Stable Diffusion tools write and read: the prompt, the negative
 * prompt, then `Steps: 30, Sampler: ddim, …` on one line.
 */
export function parametersText(prompt: string, seed: number, size: string, parameters: Parameters): string {
  const lines = [prompt]
  const { negativePrompt, steps, scheduler, guidanceScale, model, subjects } = parameters
  if (typeof negativePrompt === 'string' && negativePrompt) lines.push(`Negative prompt: ${negativePrompt}`)
  const pairs: [string, unknown][] = [
    ['Steps', steps],
    ['Sampler', scheduler],
    ['CFG scale', guidanceScale],
    ['Seed', seed],
    ['Size', size],
    ['Model', model],
    ['Subjects', Array.isArray(subjects) ? subjects.map(subjectName).join(' ') : undefined],
  ]
  const known = pairs.filter(([, value]) => value !== undefined && value !== null && value !== '')
  lines.push(known.map(([key, value]) => `${key}: ${String(value)}`).join(', '))
  return lines.join('\n')
}

function subjectName(subject: unknown): string {
  const name = typeof subject === 'object' && subject !== null ? (subject as { name?: unknown }).name : subject
  return `<${String(name)}>`
}

// ---------------------------------------------------------------------------------------------
// PNG: text chunks right after the header

const PNG_SIGNATURE = 8
/** Length, type, 13 bytes of data, checksum. */
const IHDR = 25

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n
  for (let k = 0; k < 8; k += 1) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1
  return c
})

function crc32(data: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of data) crc = CRC_TABLE[(crc ^ byte) & 0xff]! ^ (crc >>> 8)
  return (crc ^ 0xffffffff) >>> 0
}

function pngChunk(type: string, data: Buffer): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data])
  const out = Buffer.alloc(body.length + 8)
  out.writeUInt32BE(data.length, 0)
  body.copy(out, 4)
  out.writeUInt32BE(crc32(body), body.length + 4)
  return out
}

/** tEXt holds Latin-1; what does not fit becomes iTXt, which readers treat alike. */
function textChunk(keyword: string, text: string): Buffer {
  const latin1 = Buffer.from(text, 'latin1')
  if (latin1.toString('latin1') === text)
    return pngChunk('tEXt', Buffer.concat([Buffer.from(`${keyword}\0`, 'latin1'), latin1]))
  return pngChunk('iTXt', Buffer.concat([Buffer.from(`${keyword}\0\0\0\0\0`, 'latin1'), Buffer.from(text, 'utf8')]))
}

/** The text under `parameters`, where other tools look for it; the JSON under `swap`. */
export function describePng(png: Buffer, { text, json }: Description): Buffer {
  const at = PNG_SIGNATURE + IHDR
  return Buffer.concat([png.subarray(0, at), textChunk('parameters', text), textChunk('swap', json), png.subarray(at)])
}

// ---------------------------------------------------------------------------------------------
// EXIF, for JPEG and WebP

const ASCII = 2
const LONG = 4
const UNDEFINED = 7
const IMAGE_DESCRIPTION = 0x010e
const EXIF_IFD = 0x8769
const USER_COMMENT = 0x9286

/** A big-endian TIFF block: the JSON as ImageDescription, the text as UserComment (UTF-16, as other tools write it). */
function exifBlock({ text, json }: Description): Buffer {
  const description = Buffer.from(`${json}\0`, 'utf8')
  const utf16 = Buffer.from(text, 'utf16le').swap16()
  const comment = Buffer.concat([Buffer.from('UNICODE\0', 'latin1'), utf16])
  const ifd0 = 8
  const exif = ifd0 + 2 + 2 * 12 + 4
  const descriptionAt = exif + 2 + 12 + 4
  const commentAt = descriptionAt + description.length + (description.length % 2)
  const block = Buffer.alloc(commentAt + comment.length)
  const entry = (at: number, tag: number, type: number, count: number, value: number): void => {
    block.writeUInt16BE(tag, at)
    block.writeUInt16BE(type, at + 2)
    block.writeUInt32BE(count, at + 4)
    block.writeUInt32BE(value, at + 8)
  }
  block.write('MM\0*', 0, 'latin1')
  block.writeUInt32BE(ifd0, 4)
  block.writeUInt16BE(2, ifd0)
  entry(ifd0 + 2, IMAGE_DESCRIPTION, ASCII, description.length, descriptionAt)
  entry(ifd0 + 14, EXIF_IFD, LONG, 1, exif)
  block.writeUInt16BE(1, exif)
  entry(exif + 2, USER_COMMENT, UNDEFINED, comment.length, commentAt)
  description.copy(block, descriptionAt)
  comment.copy(block, commentAt)
  return block
}

/** A segment of a JPEG has a length of 16 bits. */
const MAX_SEGMENT = 0xffff - 2

/** Adds an APP1 segment right after the start of the image; a description too long for one is cut to its text. */
export function describeJpeg(jpeg: Buffer, description: Description): Buffer {
  const header = Buffer.from('Exif\0\0', 'latin1')
  let exif = exifBlock(description)
  if (header.length + exif.length > MAX_SEGMENT) exif = exifBlock({ text: description.text.slice(0, 8000), json: '{}' })
  const marker = Buffer.from([0xff, 0xe1, 0, 0])
  marker.writeUInt16BE(2 + header.length + exif.length, 2)
  return Buffer.concat([jpeg.subarray(0, 2), marker, header, exif, jpeg.subarray(2)])
}

/** Flag of the extended header that says that an EXIF chunk follows. */
const WEBP_EXIF = 0x08

function riffChunk(type: string, data: Buffer): Buffer {
  const head = Buffer.alloc(8)
  head.write(type, 0, 'latin1')
  head.writeUInt32LE(data.length, 4)
  return Buffer.concat([head, data, Buffer.alloc(data.length % 2)])
}

/** Turns a simple WebP into an extended one that carries EXIF. */
export function describeWebp(webp: Buffer, width: number, height: number, description: Description): Buffer {
  const extended = Buffer.alloc(10)
  extended[0] = WEBP_EXIF
  extended.writeUIntLE(width - 1, 4, 3)
  extended.writeUIntLE(height - 1, 7, 3)
  const body = Buffer.concat([
    Buffer.from('WEBP', 'latin1'),
    riffChunk('VP8X', extended),
    webp.subarray(12),
    riffChunk('EXIF', exifBlock(description)),
  ])
  return riffChunk('RIFF', body)
}
