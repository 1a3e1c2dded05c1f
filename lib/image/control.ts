/** The picture that a ControlNet follows. */
import type { NativeImage } from '../native.ts'
import { decode, type ImageInput, openImage } from './decode.ts'
import { digest } from './initial.ts'

/** How far its shape may be from that of the pictures before that is worth a word. */
const SHAPE_TOLERANCE = 0.01

/**
 * Reads a control picture: turned as EXIF says, sRGB with 8 bits, on black where it is transparent, stretched to the
 * size of the pictures that are made (Lanczos), as diffusers does.
 *
 * @throws SwapError `SWAP_IMAGE_…`, see `openImage`
 */
export async function readControlImage(
  input: ImageInput,
  { width, height }: { width: number; height: number },
): Promise<{ image: NativeImage; digest: string; warnings: string[] }> {
  const opened = await openImage(input)
  const warnings: string[] = []
  if (Math.abs((opened.width * height) / (opened.height * width) - 1) > SHAPE_TOLERANCE) {
    warnings.push(
      `the control picture ${opened.name} is ${opened.width} x ${opened.height}: it is stretched to ${width} x ${height}`,
    )
  }
  let pipeline = opened.pipeline.flatten({ background: '#000000' })
  if (opened.width !== width || opened.height !== height) {
    pipeline = pipeline.resize(width, height, { kernel: 'lanczos3', fit: 'fill', fastShrinkOnLoad: false })
  }
  const { data } = await decode(opened, pipeline.toColourspace('srgb').removeAlpha())
  return { image: { width, height, data }, digest: digest(data), warnings }
}
