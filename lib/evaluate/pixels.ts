/** Pictures as a net takes them. */

import { type ImageInput, readPhoto } from '../image/index.ts'
import type { Net, Tensor } from './runtime.ts'

export interface PixelsOf {
  size: number
  mean: readonly [number, number, number]
  std: readonly [number, number, number]
  channels: 'rgb' | 'bgr'
}

/** Planes of channels, `[pictures, 3, size, size]`: the largest square in the middle, as photos are learnt. */
export async function pixelsOf(net: Net, pictures: readonly ImageInput[], card: PixelsOf): Promise<Tensor> {
  const { size, mean, std, channels } = card
  const plane = size * size
  const values = new Float32Array(pictures.length * 3 * plane)
  for (const [index, picture] of pictures.entries()) {
    const { image } = await readPhoto(picture, { size, crop: 'center' })
    for (let channel = 0; channel < 3; channel += 1) {
      const at = (index * 3 + (channels === 'rgb' ? channel : 2 - channel)) * plane
      for (let i = 0; i < plane; i += 1)
        values[at + i] = (image.data[3 * i + channel]! / 255 - mean[channel]!) / std[channel]!
    }
  }
  return net.tensor(values, [pictures.length, 3, size, size])
}

/** A vector of length 1. */
export function normalised(vector: Float32Array): Float32Array {
  let square = 0
  for (const value of vector) square += value * value
  const factor = 1 / Math.max(Math.sqrt(square), 1e-12)
  return vector.map((value) => value * factor)
}

/** Of vectors of length 1, their cosine. */
export function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0
  for (let i = 0; i < a.length; i += 1) sum += a[i]! * b[i]!
  return sum
}
