/** The photo that a subject is learnt from, and the mask that says where in it the subject is. */

import { SwapError } from '../errors.ts'
import type { NativeImage } from '../native.ts'
import { type Crop, decode, type ImageInput, openImage, resolveCrop } from './decode.ts'

/**
 * Reads a photo into what the model learns from: turned as EXIF says, sRGB with 8 bits, alpha laid on white, the
 * crop resized to `size` pixels a side (Lanczos, antialiased).
 *
 * @throws SwapError `SWAP_IMAGE_…`, see `openImage` and `resolveCrop`.
 */
export async function readPhoto(
  input: ImageInput,
  { size, crop }: { size: number; crop: Crop },
): Promise<{ image: NativeImage; original: { width: number; height: number }; warnings: string[] }> {
  const photo = await openImage(input)
  const { width, height } = photo
  const square = resolveCrop(crop, width, height)
  const warnings: string[] = []
  if (square.size < size)
    warnings.push(
      `the photo ${photo.name} gives ${square.size} pixels a side and the model learns at ${size}: it is enlarged, and details will be missing`,
    )
  const { data } = await decode(
    photo,
    photo.pipeline
      .extract({ left: square.left, top: square.top, width: square.size, height: square.size })
      .flatten({ background: '#ffffff' })
      .resize(size, size, { kernel: 'lanczos3', fit: 'fill', fastShrinkOnLoad: false })
      .toColourspace('srgb')
      .removeAlpha(),
  )
  return { image: { width: size, height: size, data }, original: { width, height }, warnings }
}

/** How far a mask's shape may be from the photo's. */
const SHAPE_TOLERANCE = 0.01

/**
 * Reads a mask (white: the subject) into weights 0..1 on the latent's grid, `[height, width]`.
 *
 * It is cropped like the photo; a mask of another size but the same shape is scaled. Each weight is the mean
 * over the pixels that fall on it.
 *
 * @throws SwapError `SWAP_IMAGE_MASK` for another shape than the photo's or one without any white; `SWAP_IMAGE_…`.
 */
export async function readMask(
  input: ImageInput,
  options: { width: number; height: number; crop: Crop; photo: { width: number; height: number } },
): Promise<Float32Array> {
  const mask = await openImage(input)
  const { photo } = options
  const scale = mask.width / photo.width
  if (Math.abs(mask.height / photo.height / scale - 1) > SHAPE_TOLERANCE)
    throw new SwapError(
      'SWAP_IMAGE_MASK',
      `the mask ${mask.name} is ${mask.width} x ${mask.height} and the photo ${photo.width} x ${photo.height}`,
      { hint: 'give a mask of the whole photo, before cropping' },
    )
  const square = resolveCrop(options.crop, photo.width, photo.height)
  const left = Math.min(mask.width - 1, Math.round(square.left * scale))
  const top = Math.min(mask.height - 1, Math.round(square.top * scale))
  const width = Math.max(1, Math.min(mask.width - left, Math.round(square.size * scale)))
  const height = Math.max(1, Math.min(mask.height - top, Math.round(square.size * scale)))
  const grey = await decode(
    mask,
    // Transparent parts of a mask are not the subject.
    mask.pipeline.extract({ left, top, width, height }).flatten({ background: '#000000' }).toColourspace('b-w'),
  )
  const weights = areaAverage(grey.data, grey, options.width, options.height)
  if (weights.every((weight) => weight === 0))
    throw new SwapError('SWAP_IMAGE_MASK', `the mask ${mask.name} has no white within the crop`, {
      hint: 'white marks the subject, black the rest',
    })
  return weights
}

/** Means over the boxes of a grid: pixels on an edge count with the part that lies inside. */
function areaAverage(
  pixels: Uint8Array,
  from: { width: number; height: number },
  width: number,
  height: number,
): Float32Array {
  const columns = spans(from.width, width)
  const rows = spans(from.height, height)
  // Bytes of a pixel: one, unless the decoder kept more.
  const stride = pixels.length / (from.width * from.height)
  const out = new Float32Array(width * height)
  rows.forEach((row, y) => {
    columns.forEach((column, x) => {
      let sum = 0
      let area = 0
      for (const [j, high] of row)
        for (const [i, wide] of column) {
          sum += pixels[(j * from.width + i) * stride]! * high * wide
          area += high * wide
        }
      out[y * width + x] = sum / area / 255
    })
  })
  return out
}

/** For each of `to` equal parts of `from` pixels: which pixels fall on it and how much of each. */
function spans(from: number, to: number): [index: number, part: number][][] {
  return Array.from({ length: to }, (_, k) => {
    const begin = (k * from) / to
    const end = ((k + 1) * from) / to
    const span: [number, number][] = []
    for (let i = Math.floor(begin); i < Math.min(from, Math.ceil(end)); i += 1) {
      const part = Math.min(end, i + 1) - Math.max(begin, i)
      if (part > 1e-9) span.push([i, part])
    }
    return span
  })
}
