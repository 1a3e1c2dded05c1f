import sharp from 'sharp'
import { describe, expect, it } from 'vitest'
import { readControlImage } from '../../lib/image/index.ts'

/** Left half white, right half of the given colour, as a PNG. */
async function halves(width: number, height: number, right: [number, number, number, number]): Promise<Buffer> {
  const data = Buffer.alloc(width * height * 4)
  for (let at = 0; at < width * height; at++) data.set(at % width < width / 2 ? [255, 255, 255, 255] : right, 4 * at)
  return await sharp(data, { raw: { width, height, channels: 4 } })
    .png()
    .toBuffer()
}

describe('readControlImage', () => {
  it('keeps the bytes of a picture that has the size already', async () => {
    const data = Uint8Array.from({ length: 16 * 8 * 3 }, (_, k) => (k * 37) % 256)
    const { image, warnings } = await readControlImage({ data, width: 16, height: 8 }, { width: 16, height: 8 })
    expect([image.width, image.height]).toEqual([16, 8])
    expect([...image.data]).toEqual([...data])
    expect(warnings).toEqual([])
  })

  it('takes what is transparent for black', async () => {
    const { image } = await readControlImage(await halves(16, 16, [200, 100, 50, 0]), { width: 16, height: 16 })
    expect([...image.data.subarray(0, 3)]).toEqual([255, 255, 255])
    expect([...image.data.subarray(45, 48)]).toEqual([0, 0, 0])
  })

  it('makes three channels of one', async () => {
    const grey = await sharp(Buffer.alloc(64, 90), { raw: { width: 8, height: 8, channels: 1 } })
      .png()
      .toBuffer()
    const { image } = await readControlImage(grey, { width: 8, height: 8 })
    expect(new Set(image.data)).toEqual(new Set([90]))
    expect(image.data).toHaveLength(8 * 8 * 3)
  })

  it('scales one of the same shape, without a word', async () => {
    const { image, warnings } = await readControlImage(await halves(64, 32, [0, 0, 0, 255]), { width: 32, height: 16 })
    expect(image.data).toHaveLength(32 * 16 * 3)
    expect(image.data[0]).toBe(255)
    expect(image.data.at(-1)).toBe(0)
    expect(warnings).toEqual([])
  })

  it('stretches one of another shape, and says so', async () => {
    const { image, warnings } = await readControlImage(await halves(64, 32, [0, 0, 0, 255]), { width: 16, height: 16 })
    // The middle stays the middle: nothing is cut off.
    expect(image.data[3 * 4]).toBe(255)
    expect(image.data[3 * 12]).toBe(0)
    expect(warnings).toEqual(['the control picture given as bytes is 64 x 32: it is stretched to 16 x 16'])
  })
})
