import type { Model } from './model/index.ts'

/**
 * The sizes that SDXL's U-Net is told: of the picture, of the crop's corner and of the target, height before width.
 * Undefined where a model takes none.
 */
export function timeIds({ spec }: Model, { width, height }: { width: number; height: number }): number[] | undefined {
  return spec.unet.pooledWidth ? [height, width, 0, 0, height, width] : undefined
}
