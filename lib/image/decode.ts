/** From whatever holds a picture to a sharp pipeline over its oriented pixels; every failure gets a code and the file's name. */

import { open } from 'node:fs/promises'
import type { Metadata, Sharp, SharpOptions } from 'sharp'
import { isSystemError, SwapError, type SwapErrorCode } from '../errors.ts'

/** A path, an encoded file's bytes, or raw RGB. */
export type ImageInput = string | Uint8Array | { data: Uint8Array; width: number; height: number }

/** A square in oriented pixels, or the largest one in the middle. */
export type Crop = 'center' | { left: number; top: number; size: number }

/** A picture that was opened: its header is read and believed, its pixels are not decoded yet. */
export interface OpenedImage {
  /** Oriented as EXIF says. */
  pipeline: Sharp
  /** Oriented size in pixels. */
  width: number
  height: number
  /** For messages: `"me.jpg"`, or what else it is. */
  name: string
}

/** Formats that are decoded. Others that the decoder knows (SVG, PDF) are documents, not pictures. */
const FORMATS = new Set(['jpeg', 'png', 'webp', 'gif', 'tiff', 'heif', 'raw'])
const READ_HINT = 'give a JPEG, PNG, WebP, AVIF, GIF or TIFF'

/** Files above this are no photographs; it also bounds what is read into memory. */
const MAX_BYTES = 512 * 1024 * 1024
/** Pixels that are decoded at most (16,383 squared): a small file can claim to hold terabytes. */
const MAX_PIXELS = 0x3fff * 0x3fff

const SYSTEM: Record<string, { code: SwapErrorCode; what: string; hint: string }> = {
  ENOENT: { code: 'SWAP_IMAGE_NOT_FOUND', what: 'there is no such file', hint: 'check the path' },
  ENOTDIR: { code: 'SWAP_IMAGE_NOT_FOUND', what: 'there is no such file', hint: 'check the path' },
  EISDIR: { code: 'SWAP_IMAGE_IS_DIRECTORY', what: 'it is a folder', hint: 'give the name of one picture' },
  EACCES: { code: 'SWAP_IMAGE_PERMISSION', what: 'it may not be read', hint: 'check its permissions' },
  EPERM: { code: 'SWAP_IMAGE_PERMISSION', what: 'it may not be read', hint: 'check its permissions' },
}

async function readBytes(path: string): Promise<Buffer> {
  try {
    const file = await open(path, 'r')
    try {
      const stats = await file.stat()
      if (stats.isDirectory()) throw Object.assign(new Error('is a directory'), { code: 'EISDIR', syscall: 'read' })
      if (stats.size > MAX_BYTES || stats.isCharacterDevice() || stats.isBlockDevice())
        throw tooLarge(`"${path}"`, `the file has ${stats.size} bytes`)
      return await file.readFile()
    } finally {
      await file.close()
    }
  } catch (error) {
    if (!isSystemError(error)) throw error
    const known = SYSTEM[error.code]
    throw new SwapError(
      known?.code ?? 'SWAP_IMAGE_READ',
      `cannot read the picture "${path}": ${known?.what ?? `the system says ${error.code}`}`,
      { hint: known?.hint, cause: error },
    )
  }
}

function tooLarge(name: string, what: string, cause?: unknown): SwapError {
  return new SwapError('SWAP_IMAGE_TOO_LARGE', `the picture ${name} is too large: ${what}`, {
    hint: `at most ${Math.floor(MAX_PIXELS / 1e6)} megapixels are read; make it smaller first`,
    cause,
  })
}

/** The coded error for what the decoder says. */
function decodeError(error: unknown, name: string, bytes: Uint8Array | undefined): SwapError {
  const says = error instanceof Error ? error.message.split('\n')[0]! : String(error)
  if (/pixel limit|too large|exceeds/i.test(says)) return tooLarge(name, 'it claims more pixels than are read', error)
  const brand = bytes ? Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(16, bytes.length)).toString('latin1') : ''
  if (/ftyp(heic|heix|hevc|mif1|msf1)/.test(brand))
    return new SwapError('SWAP_IMAGE_FORMAT', `the picture ${name} is HEIC, which is not read`, {
      hint: 'save it as JPEG first',
      cause: error,
    })
  return new SwapError('SWAP_IMAGE_DECODE', `the picture ${name} cannot be read, or is damaged (${says})`, {
    hint: READ_HINT,
    cause: error,
  })
}

function checkRaw(input: { data: Uint8Array; width: number; height: number }): void {
  const { data, width, height } = input
  const sane = (side: number): boolean => Number.isSafeInteger(side) && side > 0
  if (!sane(width) || !sane(height))
    throw new SwapError('SWAP_IMAGE_RAW', `a raw picture's size must be whole and positive, not ${width} x ${height}`)
  if (width * height > MAX_PIXELS) throw tooLarge('given as raw RGB', `it has ${width} x ${height} pixels`)
  if (!(data instanceof Uint8Array) || data.length !== width * height * 3)
    throw new SwapError(
      'SWAP_IMAGE_RAW',
      `a raw picture of ${width} x ${height} has ${width * height * 3} bytes of RGB, not ${data?.length ?? typeof data}`,
      { hint: 'give three bytes a pixel, row by row, or an encoded picture as a Uint8Array' },
    )
}

/**
 * Opens a picture: the header is read, EXIF orientation is applied, the first frame is taken of an animation.
 *
 * @throws SwapError `SWAP_IMAGE_NOT_FOUND`, `_IS_DIRECTORY`, `_PERMISSION`, `_READ`, `_EMPTY`, `_DECODE`,
 *   `_FORMAT`, `_TOO_LARGE`, `_RAW`.
 */
export async function openImage(input: ImageInput): Promise<OpenedImage> {
  const { default: sharp } = await import('sharp')
  const name =
    typeof input === 'string' ? `"${input}"` : input instanceof Uint8Array ? 'given as bytes' : 'given as raw RGB'
  // Warnings of the decoder are for cameras' quirks; errors and cut files are refused.
  const options: SharpOptions = { failOn: 'error', limitInputPixels: MAX_PIXELS, pages: 1 }
  let bytes: Uint8Array
  if (typeof input === 'string') bytes = await readBytes(input)
  else if (input instanceof Uint8Array) bytes = input
  else {
    checkRaw(input)
    bytes = input.data
    options.raw = { width: input.width, height: input.height, channels: 3 }
  }
  if (bytes.length === 0)
    throw new SwapError('SWAP_IMAGE_EMPTY', `the picture ${name} is empty (0 bytes)`, { hint: READ_HINT })
  let metadata: Metadata
  const pipeline = sharp(bytes, options)
  try {
    metadata = await pipeline.metadata()
  } catch (error) {
    throw decodeError(error, name, bytes)
  }
  if (!FORMATS.has(metadata.format))
    throw new SwapError(
      'SWAP_IMAGE_FORMAT',
      `the picture ${name} is ${metadata.format.toUpperCase()}, which is not read`,
      {
        hint: READ_HINT,
      },
    )
  const { width, height } = metadata.autoOrient
  return { pipeline: pipeline.autoOrient(), width, height, name }
}

/** Decodes to raw bytes, with the decoder's complaints as coded errors. */
export async function decode(
  image: OpenedImage,
  pipeline: Sharp,
): Promise<{ data: Buffer; width: number; height: number }> {
  try {
    const { data, info } = await pipeline.raw({ depth: 'uchar' }).toBuffer({ resolveWithObject: true })
    return { data, width: info.width, height: info.height }
  } catch (error) {
    throw decodeError(error, image.name, undefined)
  }
}

/**
 * The square to take, in oriented pixels.
 *
 * @throws SwapError `SWAP_IMAGE_CROP` when it does not lie within the picture.
 */
export function resolveCrop(crop: Crop, width: number, height: number): { left: number; top: number; size: number } {
  if (crop === 'center') {
    const size = Math.min(width, height)
    return { left: Math.floor((width - size) / 2), top: Math.floor((height - size) / 2), size }
  }
  const { left, top, size } = crop
  const whole = [left, top, size].every(Number.isSafeInteger)
  if (!whole || left < 0 || top < 0 || size < 1 || left + size > width || top + size > height)
    throw new SwapError(
      'SWAP_IMAGE_CROP',
      `the crop of ${size} pixels at ${left}, ${top} does not lie within the picture's ${width} x ${height}`,
      { hint: 'give whole pixels of the picture as it is seen (turned as EXIF says)' },
    )
  return { left, top, size }
}
