/** The picture that a generation begins from, and the mask that says which of it is painted anew. */

import { createHash } from 'node:crypto'
import { SwapError } from '../errors.ts'
import type { NativeImage } from '../native.ts'
import { decode, type ImageInput, type OpenedImage, openImage } from './decode.ts'

interface Size {
  width: number
  height: number
}

/** A picture that is to be begun from, at the size that is drawn. */
export interface InitialPicture {
  image: NativeImage
  /** `[height, width]`, 0..1; undefined: no mask. */
  mask: Float32Array | undefined
  /** SHA-256 of what the engine gets, hex. */
  digests: { image: string; mask: string | undefined }
}

/**
 * The size to draw at, where the caller does not say all of it: the picture's own, rounded down to whole latents, at
 * most `most` pixels a side. One side alone takes the other along in the picture's shape.
 */
export function initialSize(
  picture: Size,
  asked: { width?: number | undefined; height?: number | undefined },
  { factor, most }: { factor: number; most: number },
): Size {
  const whole = (side: number, round: (value: number) => number): number =>
    Math.max(factor, round(side / factor) * factor)
  if (asked.width !== undefined || asked.height !== undefined) {
    const width = asked.width ?? whole((asked.height! * picture.width) / picture.height, Math.round)
    return { width, height: asked.height ?? whole((width * picture.height) / picture.width, Math.round) }
  }
  const scale = Math.min(1, most / Math.max(picture.width, picture.height))
  return { width: whole(picture.width * scale, Math.floor), height: whole(picture.height * scale, Math.floor) }
}

/**
 * Reads the picture, and the mask where there is one: turned as EXIF says, sRGB, alpha laid on white; of another shape
 * than `size`, what sticks out is cut off evenly; resized with Lanczos.
 *
 * White of the mask is painted anew, black is kept; its transparent parts are kept too.
 *
 * @throws SwapError `SWAP_IMAGE_MASK` for a mask of another shape than the picture's, or with no white;
 *   `SWAP_IMAGE_…`, see `openImage`.
 */
export async function readInitial(
  picture: OpenedImage,
  maskInput: ImageInput | undefined,
  size: Size,
  factor: number,
): Promise<InitialPicture> {
  const fitted = ({ pipeline }: OpenedImage, background: string) =>
    pipeline
      .flatten({ background })
      .resize(size.width, size.height, { kernel: 'lanczos3', fit: 'cover', fastShrinkOnLoad: false })
  const { data } = await decode(picture, fitted(picture, '#ffffff').toColourspace('srgb').removeAlpha())
  const image = { ...size, data }
  if (maskInput === undefined) return { image, mask: undefined, digests: { image: digest(data), mask: undefined } }

  const opened = await openImage(maskInput)
  checkShape(opened, picture)
  const grey = await decode(opened, fitted(opened, '#000000').toColourspace('b-w'))
  // Bytes of a pixel: one, unless the decoder kept more.
  const stride = grey.data.length / (size.width * size.height)
  const mask = Float32Array.from({ length: size.width * size.height }, (_, pixel) => grey.data[pixel * stride]! / 255)
  if (!paintsAnything(mask, size, factor)) {
    throw new SwapError('SWAP_IMAGE_MASK', `the mask ${opened.name} has no white, or too little to paint anything`, {
      hint: 'white is painted anew, black is kept',
    })
  }
  return { image, mask, digests: { image: digest(data), mask: digest(grey.data) } }
}

/** How far a mask's shape may be from the picture's. */
const SHAPE_TOLERANCE = 0.01

function checkShape(mask: OpenedImage, picture: OpenedImage): void {
  const ratio = (mask.width * picture.height) / (mask.height * picture.width)
  if (Math.abs(ratio - 1) <= SHAPE_TOLERANCE) return
  throw new SwapError(
    'SWAP_IMAGE_MASK',
    `the mask ${mask.name} is ${mask.width} x ${mask.height} and the picture ${picture.width} x ${picture.height}`,
    { hint: 'give a mask of the whole picture' },
  )
}

/** A latent pixel looks at the mask in its upper left corner. */
function paintsAnything(mask: Float32Array, { width, height }: Size, factor: number): boolean {
  for (let y = 0; y < height; y += factor) {
    for (let x = 0; x < width; x += factor) if (mask[y * width + x]! >= 0.5) return true
  }
  return false
}

/** What a picture's file says of another that went into it. */
export function digest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}
