import { mkdirSync, mkdtempSync, readdirSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import sharp from 'sharp'
import { beforeEach, describe, expect, it } from 'vitest'
import { GeneratedImage, type ImageFormat } from '../../lib/image/index.ts'

const width = 24
const height = 16
const data = Uint8Array.from({ length: width * height * 3 }, (_, index) => (index * 7) % 256)
const parameters = {
  negativePrompt: 'blurry',
  steps: 30,
  guidanceScale: 5,
  scheduler: 'ddim',
  model: 'mini',
  subjects: ['alice'],
}
const PROMPT = 'a photo of <alice> at the beach'
const TEXT = `${PROMPT}\nNegative prompt: blurry\nSteps: 30, Sampler: ddim, CFG scale: 5, Seed: 7, Size: 24x16, Model: mini, Subjects: <alice>`

function make(prompt = PROMPT): GeneratedImage {
  return new GeneratedImage({ data, width, height, seed: 7, prompt, parameters })
}

/** Text chunks of a PNG, with every chunk's checksum checked by the decoder before. */
function pngTexts(png: Buffer): Record<string, string> {
  const texts: Record<string, string> = {}
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at)
    const type = png.toString('latin1', at + 4, at + 8)
    const body = png.subarray(at + 8, at + 8 + length)
    const zero = body.indexOf(0)
    const keyword = body.toString('latin1', 0, zero)
    if (type === 'tEXt') texts[keyword] = body.toString('latin1', zero + 1)
    if (type === 'iTXt') texts[keyword] = body.toString('utf8', zero + 5)
    at += length + 12
  }
  return texts
}

/** ImageDescription and UserComment of an EXIF block, by following its offsets. */
function exifTexts(exif: Buffer): { description: string; comment: string } {
  const tiff = exif.subarray(exif.indexOf('MM'))
  const find = (ifd: number, tag: number): { count: number; value: number } => {
    for (let k = 0; k < tiff.readUInt16BE(ifd); k += 1) {
      const at = ifd + 2 + 12 * k
      if (tiff.readUInt16BE(at) === tag) return { count: tiff.readUInt32BE(at + 4), value: tiff.readUInt32BE(at + 8) }
    }
    throw new Error(`no tag ${tag}`)
  }
  const first = tiff.readUInt32BE(4)
  const description = find(first, 0x010e)
  const comment = find(find(first, 0x8769).value, 0x9286)
  const bytes = tiff.subarray(comment.value, comment.value + comment.count)
  expect(bytes.toString('latin1', 0, 8)).toBe('UNICODE\0')
  return {
    description: tiff.toString('utf8', description.value, description.value + description.count - 1),
    comment: Buffer.from(bytes.subarray(8)).swap16().toString('utf16le'),
  }
}

describe('a generated picture', () => {
  it('is a PNG that holds its pixels and its parameters', async () => {
    const png = await make().toBuffer()
    const raw = await sharp(png).removeAlpha().raw().toBuffer()
    expect(raw.equals(data)).toBe(true)
    const texts = pngTexts(png)
    expect(texts.parameters).toBe(TEXT)
    expect(JSON.parse(texts.swap!)).toEqual({ ...parameters, prompt: PROMPT, seed: 7, width, height })
    // A second decoder, strict about checksums, reads the same chunks.
    const { comments } = await sharp(png, { failOn: 'warning' }).metadata()
    expect(comments).toContainEqual({ keyword: 'parameters', text: TEXT })
  })

  it('keeps prompts in any script', async () => {
    const prompt = 'été, 海辺の <alice> 🏖'
    expect(pngTexts(await make(prompt).toBuffer()).parameters).toContain(prompt)
    for (const format of ['jpg', 'webp'] as const) {
      const { exif } = await sharp(await make(prompt).toBuffer(format)).metadata()
      expect(exifTexts(exif!).comment).toContain(prompt)
      expect(JSON.parse(exifTexts(exif!).description).prompt).toBe(prompt)
    }
  })

  it.each([
    ['jpg', 'jpeg'],
    ['webp', 'webp'],
  ] as const)('is a %s with its parameters as EXIF', async (format, decoded) => {
    const bytes = await make().toBuffer(format)
    const metadata = await sharp(bytes, { failOn: 'warning' }).metadata()
    expect(metadata).toMatchObject({ format: decoded, width, height })
    const { description, comment } = exifTexts(metadata.exif!)
    expect(comment).toBe(TEXT)
    expect(JSON.parse(description)).toMatchObject({ prompt: PROMPT, seed: 7 })
    const flat = new GeneratedImage({
      data: new Uint8Array(data.length).fill(90),
      width,
      height,
      seed: 0,
      prompt: '',
      parameters: {},
    })
    const raw = await sharp(await flat.toBuffer(format))
      .raw()
      .toBuffer()
    for (const value of raw) expect(Math.abs(value - 90)).toBeLessThanOrEqual(2)
  })

  it('fits into a JPEG whatever the length of its prompt', async () => {
    const jpeg = await make('word '.repeat(20_000)).toBuffer('jpg')
    expect((await sharp(jpeg, { failOn: 'warning' }).metadata()).format).toBe('jpeg')
  })

  it('is a JPEG by either name', async () => {
    expect((await make().toBuffer('jpeg')).equals(await make().toBuffer('jpg'))).toBe(true)
  })

  it('is no other format', async () => {
    await expect(make().toBuffer('bmp' as ImageFormat)).rejects.toMatchObject({ code: 'SWAP_IMAGE_FORMAT' })
  })

  it('shows itself as JSON without its pixels', () => {
    expect(JSON.parse(JSON.stringify(make()))).toEqual({ width, height, seed: 7, prompt: PROMPT, parameters })
  })
})

describe('saving', () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'swap-save-'))
  })

  it.each([
    ['a.png', 'png'],
    ['a.jpg', 'jpeg'],
    ['a.JPEG', 'jpeg'],
    ['a.webp', 'webp'],
  ])('writes %s by its extension and leaves nothing else', async (name, format) => {
    await make().save(join(folder, name))
    expect(readdirSync(folder)).toEqual([name])
    expect((await sharp(await readFile(join(folder, name))).metadata()).format).toBe(format)
  })

  it.each(['a.gif', 'a', 'a.png.txt', 'png'])('refuses %s and says what is written', async (name) => {
    await expect(make().save(join(folder, name))).rejects.toMatchObject({
      code: 'SWAP_IMAGE_FORMAT',
      message: expect.stringContaining(name),
      hint: expect.stringContaining('.png, .jpg, .jpeg, .webp'),
    })
    expect(readdirSync(folder)).toEqual([])
  })

  it('says when it cannot be written and leaves no file behind', async () => {
    await expect(make().save(join(folder, 'no', 'a.png'))).rejects.toMatchObject({ code: 'SWAP_FILE_NOT_FOUND' })
    mkdirSync(join(folder, 'a.png'))
    await expect(make().save(join(folder, 'a.png'))).rejects.toMatchObject({ code: 'SWAP_FILE_IS_DIRECTORY' })
    writeFileSync(join(folder, 'file'), '')
    await expect(make().save(join(folder, 'file', 'a.png'))).rejects.toMatchObject({ code: 'SWAP_FILE_NOT_FOUND' })
    expect(readdirSync(folder).sort()).toEqual(['a.png', 'file'])
  })
})
