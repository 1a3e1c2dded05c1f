import sharp from 'sharp'
import { describe, expect, it, test } from 'vitest'
import { initialSize, openImage, readInitial } from '../../lib/image/index.ts'

type Shade = (x: number, y: number) => number

/** Grey RGB from a function of the place. */
function paint(width: number, height: number, shade: Shade) {
  const data = new Uint8Array(width * height * 3)
  for (let y = 0; y < height; y += 1)
    for (let x = 0; x < width; x += 1) data.fill(shade(x, y), (y * width + x) * 3, (y * width + x) * 3 + 3)
  return { data, width, height }
}

const grid = { factor: 8, most: 1024 }

test.each([
  ['its own', { width: 512, height: 768 }, {}, { width: 512, height: 768 }],
  ['rounded down', { width: 517, height: 775 }, {}, { width: 512, height: 768 }],
  ['at least a latent', { width: 5, height: 300 }, {}, { width: 8, height: 296 }],
  ['at most twice the resolution', { width: 4000, height: 3000 }, {}, { width: 1024, height: 768 }],
  ['a width and the shape', { width: 4000, height: 3000 }, { width: 640 }, { width: 640, height: 480 }],
  ['a height and the shape', { width: 4000, height: 3000 }, { height: 500 }, { width: 664, height: 500 }],
  ['both', { width: 4000, height: 3000 }, { width: 64, height: 640 }, { width: 64, height: 640 }],
])('the size is %s', (_, picture, asked, expected) => {
  expect(initialSize(picture, asked, grid)).toEqual(expected)
})

describe('readInitial', () => {
  const read = async (input: Parameters<typeof openImage>[0], mask?: Parameters<typeof openImage>[0]) =>
    readInitial(await openImage(input), mask, { width: 32, height: 16 }, 8)

  it('leaves a picture of the right size as it is', async () => {
    const picture = paint(32, 16, (x, y) => x * 7 + y)
    expect(Buffer.from((await read(picture)).image.data).equals(Buffer.from(picture.data))).toBe(true)
  })

  it('cuts what sticks out evenly on both sides, of the mask as of the picture', async () => {
    const shade: Shade = (_, y) => (y >= 8 && y < 24 ? 255 : 0)
    const { image, mask } = await read(paint(32, 32, shade), paint(32, 32, shade))
    expect(new Set(image.data)).toEqual(new Set([255]))
    expect(new Set(mask)).toEqual(new Set([1]))
  })

  it('turns the picture as EXIF says', async () => {
    const upright = paint(16, 32, (_, y) => (y < 16 ? 250 : 5))
    const file = await sharp(upright.data, { raw: { width: 16, height: 32, channels: 3 } })
      .withMetadata({ orientation: 6 })
      .png()
      .toBuffer()
    const { image } = await read(file)
    // Turned to the right: what was the upper half is the right one.
    expect([image.data[0], image.data[31 * 3]]).toEqual([5, 250])
  })

  it('tells pictures and masks apart by their digests', async () => {
    const [black, white] = [paint(32, 16, () => 0), paint(32, 16, () => 255)]
    const [one, two] = [await read(black, white), await read(white, white)]
    expect(one.digests.mask).toBe(two.digests.mask)
    expect(one.digests.image).not.toBe(two.digests.image)
    expect((await read(black)).digests).toEqual({ image: one.digests.image, mask: undefined })
  })

  it('takes a mask of another size, not of another shape', async () => {
    const { mask } = await read(
      paint(32, 16, () => 9),
      paint(320, 160, (x) => (x < 160 ? 0 : 255)),
    )
    expect([mask![0], mask![31]]).toEqual([0, 1])
    await expect(
      read(
        paint(32, 16, () => 9),
        paint(32, 32, () => 255),
      ),
    ).rejects.toMatchObject({ code: 'SWAP_IMAGE_MASK' })
  })

  it('refuses a mask whose white no latent pixel sees', async () => {
    const line = paint(32, 16, (x) => (x === 3 ? 255 : 0))
    await expect(
      read(
        paint(32, 16, () => 9),
        line,
      ),
    ).rejects.toMatchObject({ code: 'SWAP_IMAGE_MASK' })
  })
})
