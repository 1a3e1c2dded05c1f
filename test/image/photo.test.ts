import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import sharp from 'sharp'
import { describe, expect, it } from 'vitest'
import { type Crop, readMask, readPhoto } from '../../lib/image/index.ts'

const folder = mkdtempSync(join(tmpdir(), 'swap-image-'))
let files = 0

function write(bytes: Uint8Array | string, name = 'photo.png'): string {
  files += 1
  mkdirSync(join(folder, String(files)))
  const path = join(folder, String(files), name)
  writeFileSync(path, bytes)
  return path
}

type Colour = [red: number, green: number, blue: number]

/** Raw RGB from a function of the place. */
function paint(width: number, height: number, colour: (x: number, y: number) => Colour) {
  const data = new Uint8Array(width * height * 3)
  for (let y = 0; y < height; y += 1) for (let x = 0; x < width; x += 1) data.set(colour(x, y), (y * width + x) * 3)
  return { data, width, height }
}

function encoder(image: { data: Uint8Array; width: number; height: number }) {
  return sharp(image.data, { raw: { width: image.width, height: image.height, channels: 3 } })
}

async function read(input: Parameters<typeof readPhoto>[0], size: number, crop: Crop = 'center') {
  const { image } = await readPhoto(input, { size, crop })
  expect(image.data).toHaveLength(size * size * 3)
  return (x: number, y: number): number[] => [...image.data.subarray((y * size + x) * 3, (y * size + x) * 3 + 3)]
}

const RED: Colour = [255, 0, 0]
const GREEN: Colour = [0, 255, 0]
const BLUE: Colour = [0, 0, 255]
const WHITE: Colour = [255, 255, 255]
/** Red, green, blue and white quarters. */
const quarters = paint(64, 64, (x, y) => (y < 32 ? (x < 32 ? RED : GREEN) : x < 32 ? BLUE : WHITE))

describe('a photo', () => {
  it('is read from a path, from bytes and from raw RGB alike', async () => {
    const png = await encoder(quarters).png().toBuffer()
    for (const input of [write(png), png, new Uint8Array(png), quarters]) {
      const at = await read(input, 64)
      expect([at(0, 0), at(63, 0), at(0, 63), at(63, 63)]).toEqual([RED, GREEN, BLUE, WHITE])
    }
  })

  it.each([
    ['jpeg', () => encoder(quarters).jpeg({ quality: 100, chromaSubsampling: '4:4:4' })],
    ['webp', () => encoder(quarters).webp({ lossless: true })],
    ['tiff', () => encoder(quarters).tiff()],
    ['gif', () => encoder(quarters).gif()],
    ['avif', () => encoder(quarters).avif({ lossless: true })],
  ])('may be %s', async (_, encode) => {
    const at = await read(await encode().toBuffer(), 64)
    for (const [got, want] of [
      [at(8, 8), RED],
      [at(56, 8), GREEN],
      [at(8, 56), BLUE],
      [at(56, 56), WHITE],
    ] as const)
      for (const channel of [0, 1, 2]) expect(Math.abs(got[channel]! - want[channel]!)).toBeLessThanOrEqual(3)
  })

  // Where the four corners end up, clockwise from the upper left, for each of EXIF's orientations.
  it.each([
    [1, [RED, GREEN, WHITE, BLUE]],
    [2, [GREEN, RED, BLUE, WHITE]],
    [3, [WHITE, BLUE, RED, GREEN]],
    [4, [BLUE, WHITE, GREEN, RED]],
    [5, [RED, BLUE, WHITE, GREEN]],
    [6, [BLUE, RED, GREEN, WHITE]],
    [7, [WHITE, GREEN, RED, BLUE]],
    [8, [GREEN, WHITE, BLUE, RED]],
  ])('is turned as EXIF orientation %i says', async (orientation, corners) => {
    const at = await read(await encoder(quarters).png().withMetadata({ orientation }).toBuffer(), 64)
    expect([at(0, 0), at(63, 0), at(63, 63), at(0, 63)]).toEqual(corners)
  })

  it('is cropped in pixels as it is seen, after turning', async () => {
    // 40 wide and 20 high in the file, red but for a blue left end; turned by 90 degrees the end is on top.
    const bar = paint(40, 20, (x) => (x < 20 ? BLUE : RED))
    const turned = await encoder(bar).png().withMetadata({ orientation: 6 }).toBuffer()
    const { original } = await readPhoto(turned, { size: 20, crop: 'center' })
    expect(original).toEqual({ width: 20, height: 40 })
    expect((await read(turned, 20, { left: 0, top: 0, size: 20 }))(10, 10)).toEqual(BLUE)
    expect((await read(turned, 20, { left: 0, top: 20, size: 20 }))(10, 10)).toEqual(RED)
  })

  it('is cropped to the square in its middle', async () => {
    const wide = paint(90, 30, (x) => (x < 30 ? RED : x < 60 ? GREEN : BLUE))
    const at = await read(wide, 30)
    expect([at(0, 0), at(29, 29)]).toEqual([GREEN, GREEN])
  })

  it.each([
    { left: 50, top: 0, size: 20 },
    { left: -1, top: 0, size: 10 },
    { left: 0, top: 0, size: 0 },
    { left: 0.5, top: 0, size: 10 },
    { left: 0, top: 64, size: 1 },
  ])('is not cropped outside of itself: %j', async (crop) => {
    await expect(readPhoto(quarters, { size: 8, crop })).rejects.toMatchObject({
      code: 'SWAP_IMAGE_CROP',
      message: expect.stringContaining('64 x 64'),
    })
  })

  it('is resized with antialiasing', async () => {
    // A pattern finer than the result: without antialiasing it would come out black or white.
    const fine = paint(256, 256, (x, y) => ((x + y) % 2 ? WHITE : [0, 0, 0]))
    const at = await read(fine, 32)
    for (const [x, y] of [
      [8, 8],
      [15, 20],
      [31, 31],
    ] as const)
      for (const value of at(x, y)) expect(Math.abs(value - 127.5)).toBeLessThan(6)
  })

  it('warns when it is smaller than the model', async () => {
    const small = await readPhoto(
      paint(40, 50, () => RED),
      { size: 64, crop: 'center' },
    )
    expect(small.warnings).toEqual([expect.stringMatching(/40 pixels.*64/)])
    expect(
      (
        await readPhoto(
          paint(64, 64, () => RED),
          { size: 64, crop: 'center' },
        )
      ).warnings,
    ).toEqual([])
  })

  it('has its transparency laid on white', async () => {
    const half = await sharp({
      create: { width: 8, height: 8, channels: 4, background: { r: 0, g: 0, b: 255, alpha: 0.5 } },
    })
      .png()
      .toBuffer()
    const at = await read(half, 8)
    for (const [channel, want] of [127, 127, 255].entries())
      expect(Math.abs(at(4, 4)[channel]! - want)).toBeLessThanOrEqual(1)
  })

  it('may be greyscale, 16 bit, CMYK or carry a colour profile', async () => {
    const grey = await encoder(paint(8, 8, () => [90, 90, 90]))
      .toColourspace('b-w')
      .png()
      .toBuffer()
    expect((await sharp(grey).metadata()).channels).toBe(1)
    expect((await read(grey, 8))(4, 4)).toEqual([90, 90, 90])

    const deep = await encoder(paint(8, 8, () => [200, 100, 50]))
      .toColourspace('rgb16')
      .png()
      .toBuffer()
    expect((await sharp(deep).metadata()).depth).toBe('ushort')
    expect((await read(deep, 8))(4, 4)).toEqual([200, 100, 50])

    const cmyk = await encoder(paint(8, 8, () => RED))
      .toColourspace('cmyk')
      .jpeg({ quality: 100 })
      .toBuffer()
    expect((await sharp(cmyk).metadata()).space).toBe('cmyk')
    const [red, green, blue] = (await read(cmyk, 8))(4, 4)
    expect(red).toBeGreaterThan(200)
    expect(green).toBeLessThan(80)
    expect(blue).toBeLessThan(80)

    // The values of a wide gamut are other ones than sRGB's for the same colour.
    const wide = await encoder(paint(8, 8, () => [200, 80, 80]))
      .withIccProfile('p3')
      .png()
      .toBuffer()
    const raw = await sharp(wide, { ignoreIcc: true } as object)
      .raw()
      .toBuffer()
    expect(raw[0]).toBeLessThan(195)
    for (const [channel, want] of [200, 80, 80].entries())
      expect(Math.abs((await read(wide, 8))(4, 4)[channel]! - want)).toBeLessThanOrEqual(3)
  })

  it('is the first frame of an animation', async () => {
    const frames = new Uint8Array([...paint(16, 16, () => GREEN).data, ...paint(16, 16, () => RED).data])
    const gif = await sharp(frames, { raw: { width: 16, height: 32, channels: 3, pageHeight: 16 } })
      .gif()
      .toBuffer()
    expect((await sharp(gif).metadata()).pages).toBe(2)
    const { original } = await readPhoto(gif, { size: 16, crop: 'center' })
    expect(original).toEqual({ width: 16, height: 16 })
    expect((await read(gif, 16))(8, 8)).toEqual(GREEN)
  })
})

describe('what is no photo', async () => {
  const noise = paint(64, 64, (x, y) => [(x * 37 + y * 91) % 256, (x * 53) % 256, (y * 71) % 256])
  const png = await encoder(noise).png().toBuffer()
  const jpeg = await encoder(noise).jpeg().toBuffer()
  const huge = Buffer.from(png)
  // The header claims 100,000 x 100,000 pixels; its checksum is recomputed below.
  huge.writeUInt32BE(100_000, 16)
  huge.writeUInt32BE(100_000, 20)
  const { crc32 } = await import('node:zlib')
  huge.writeUInt32BE(crc32(huge.subarray(12, 29)), 29)

  it.each([
    ['a text file named .png', () => write('hello\n'), 'SWAP_IMAGE_DECODE'],
    ['an empty file', () => write(''), 'SWAP_IMAGE_EMPTY'],
    ['a PNG cut short', () => write(png.subarray(0, png.length / 2)), 'SWAP_IMAGE_DECODE'],
    ['a PNG cut in its header', () => write(png.subarray(0, 20)), 'SWAP_IMAGE_DECODE'],
    ['a JPEG cut short', () => write(jpeg.subarray(0, jpeg.length / 2), 'photo.jpg'), 'SWAP_IMAGE_DECODE'],
    ['a folder', () => folder, 'SWAP_IMAGE_IS_DIRECTORY'],
    ['a missing file', () => join(folder, 'missing.png'), 'SWAP_IMAGE_NOT_FOUND'],
    ['a path through a file', () => join(write(png), 'photo.png'), 'SWAP_IMAGE_NOT_FOUND'],
    ['a header of 10 gigapixels', () => write(huge), 'SWAP_IMAGE_TOO_LARGE'],
    ['a device', () => '/dev/zero', 'SWAP_IMAGE_TOO_LARGE'],
    [
      'an SVG',
      () => write('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', 'a.svg'),
      'SWAP_IMAGE_FORMAT',
    ],
    [
      'a HEIC',
      () =>
        write(Buffer.concat([Buffer.from('\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'latin1'), Buffer.alloc(99)]), 'a.heic'),
      'SWAP_IMAGE_FORMAT',
    ],
  ])('%s is refused by name', async (_, path, code) => {
    const input = path()
    await expect(readPhoto(input, { size: 8, crop: 'center' })).rejects.toMatchObject({
      code,
      message: expect.stringContaining(input),
    })
  })

  it.each([
    ['too few bytes', { data: new Uint8Array(11), width: 2, height: 2 }],
    ['four channels', { data: new Uint8Array(16), width: 2, height: 2 }],
    ['a size that is not whole', { data: new Uint8Array(12), width: 2.5, height: 2 }],
    ['no size', { data: new Uint8Array(0), width: 0, height: 0 }],
  ])('raw RGB with %s is refused', async (_, raw) => {
    await expect(readPhoto(raw, { size: 8, crop: 'center' })).rejects.toMatchObject({ code: 'SWAP_IMAGE_RAW' })
  })

  it('bytes that are no picture are refused without a name', async () => {
    await expect(readPhoto(Buffer.from('hello'), { size: 8, crop: 'center' })).rejects.toMatchObject({
      code: 'SWAP_IMAGE_DECODE',
    })
  })
})

describe('a mask', () => {
  const photo = { width: 64, height: 64 }
  const left = paint(64, 64, (x) => (x < 32 ? WHITE : [0, 0, 0]))

  it('weighs each latent pixel by how much of it is white', async () => {
    const third = paint(64, 64, (x) => (x < 20 ? WHITE : [0, 0, 0]))
    const weights = await readMask(third, { width: 4, height: 2, crop: 'center', photo })
    // 16 pixels to a latent pixel: 1, then 4 of 16, then none.
    expect([...weights].map((weight) => Math.round(weight * 1000) / 1000)).toEqual([1, 0.25, 0, 0, 1, 0.25, 0, 0])
  })

  it('averages over parts of pixels where the grid does not divide', async () => {
    const weights = await readMask(
      paint(4, 4, (x) => (x < 2 ? WHITE : [0, 0, 0])),
      {
        width: 3,
        height: 1,
        crop: 'center',
        photo: { width: 4, height: 4 },
      },
    )
    expect(weights[0]).toBeCloseTo(1, 6)
    expect(weights[1]).toBeCloseTo(0.5, 6)
    expect(weights[2]).toBeCloseTo(0, 6)
  })

  it('is cropped like the photo, at its own scale', async () => {
    const crop = { left: 32, top: 0, size: 32 }
    const half = paint(32, 32, (x) => (x < 24 ? WHITE : [0, 0, 0]))
    expect([...(await readMask(half, { width: 2, height: 1, crop, photo }))]).toEqual([1, 0])
  })

  it('is turned as EXIF says', async () => {
    const turned = await encoder(left).png().withMetadata({ orientation: 6 }).toBuffer()
    expect([...(await readMask(turned, { width: 1, height: 2, crop: 'center', photo }))]).toEqual([1, 0])
  })

  it('counts what is transparent as not the subject', async () => {
    const clear = await sharp({
      create: { width: 64, height: 64, channels: 4, background: { r: 255, g: 255, b: 255, alpha: 0 } },
    })
      .png()
      .toBuffer()
    await expect(readMask(clear, { width: 2, height: 2, crop: 'center', photo })).rejects.toMatchObject({
      code: 'SWAP_IMAGE_MASK',
      message: expect.stringContaining('no white'),
    })
  })

  it('must have the shape of the photo', async () => {
    await expect(
      readMask(left, { width: 2, height: 2, crop: 'center', photo: { width: 64, height: 48 } }),
    ).rejects.toMatchObject({ code: 'SWAP_IMAGE_MASK', message: expect.stringMatching(/64 x 64.*64 x 48/) })
  })
})
