/** A picture that was made: its pixels, and how it came to be. */

import { extname } from 'node:path'
import { SwapError } from '../errors.ts'
import { writeFileAtomic } from '../files.ts'
import { describeJpeg, describePng, describeWebp, type Parameters, parametersText } from './metadata.ts'

export type ImageFormat = 'png' | 'jpg' | 'jpeg' | 'webp'

const FORMATS: Record<string, ImageFormat> = { '.png': 'png', '.jpg': 'jpg', '.jpeg': 'jpg', '.webp': 'webp' }

/**
 * The format that a file's name asks for.
 *
 * @throws SwapError `SWAP_IMAGE_FORMAT` for any other extension.
 */
export function formatOf(path: string): ImageFormat {
  const extension = extname(path)
  const format = FORMATS[extension.toLowerCase()]
  if (format) return format
  throw new SwapError('SWAP_IMAGE_FORMAT', `"${path}" ${extension ? `ends in ${extension}` : 'has no extension'}`, {
    hint: `pictures are written as ${Object.keys(FORMATS).join(', ')}`,
  })
}

export interface GeneratedImageFields {
  /** RGB, `[height, width, 3]`. */
  data: Uint8Array
  width: number
  height: number
  seed: number
  prompt: string
  /** What else made the picture; JSON-safe. */
  parameters: Parameters
}

/** A generated picture. */
export class GeneratedImage {
  /** RGB, `[height, width, 3]`, one byte a value. */
  readonly data: Uint8Array
  readonly width: number
  readonly height: number
  /** The seed that makes this picture alone. */
  readonly seed: number
  readonly prompt: string
  /** Everything that made the picture, JSON-safe; it is written into the file. */
  readonly parameters: Readonly<Parameters>

  constructor({ data, width, height, seed, prompt, parameters }: GeneratedImageFields) {
    this.data = data
    this.width = width
    this.height = height
    this.seed = seed
    this.prompt = prompt
    this.parameters = Object.freeze({ ...parameters })
  }

  /**
   * The encoded picture, with its parameters in the metadata: in a PNG as text under `parameters` (the form
   * other tools read) and as JSON under `swap`; in a JPEG or WebP the same two as EXIF UserComment and
   * ImageDescription.
   *
   * @param format Default `'png'`.
   * @throws SwapError `SWAP_IMAGE_FORMAT` for a format that is not written.
   */
  async toBuffer(format: ImageFormat = 'png'): Promise<Buffer> {
    const { default: sharp } = await import('sharp')
    const { data, width, height, seed, prompt } = this
    const pipeline = sharp(data, { raw: { width, height, channels: 3 } })
    const description = {
      text: parametersText(prompt, seed, `${width}x${height}`, this.parameters),
      json: JSON.stringify({ ...this.parameters, prompt, seed, width, height }),
    }
    switch (format) {
      case 'png':
        return describePng(await pipeline.png().toBuffer(), description)
      case 'jpg':
      case 'jpeg':
        return describeJpeg(await pipeline.jpeg({ quality: 95, chromaSubsampling: '4:4:4' }).toBuffer(), description)
      case 'webp':
        return describeWebp(await pipeline.webp({ quality: 95 }).toBuffer(), width, height, description)
      default:
        throw new SwapError('SWAP_IMAGE_FORMAT', `"${String(format)}" is no format that pictures are written in`, {
          hint: "use 'png', 'jpg' or 'webp'",
        })
    }
  }

  /**
   * Writes the picture, whole or not at all, in the format that the name's extension says.
   *
   * @throws SwapError `SWAP_IMAGE_FORMAT` for an extension other than .png, .jpg, .jpeg, .webp; `SWAP_FILE_…`.
   */
  async save(path: string): Promise<void> {
    const format = formatOf(path)
    await writeFileAtomic(path, await this.toBuffer(format))
  }

  /** Without the pixels. */
  toJSON(): Record<string, unknown> {
    const { width, height, seed, prompt, parameters } = this
    return { width, height, seed, prompt, parameters }
  }
}
