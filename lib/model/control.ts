/** A ControlNet: which one it is, whether it belongs to the base model, and where each of its tensors lies. */
import { realpath, stat } from 'node:fs/promises'
import { extname, join } from 'node:path'
import { SwapError } from '../errors.ts'
import type { ControlNetSpec, TensorEntry, UNetSpec } from '../native.ts'
import { controlOf } from './control_file.ts'
import { expectedControl } from './expected.ts'
import { readTensors, type StoredTensor } from './folder.ts'
import type { Model } from './index.ts'
import { type Config, readConfig } from './json.ts'
import { readHeader } from './safetensors.ts'
import { matchTensors } from './table.ts'
import { unetSpec } from './unet.ts'

/** A ControlNet, read from its config and headers; its weights are still on the disk. */
export interface ControlModel {
  spec: ControlNetSpec
  tensors: TensorEntry[]
  warnings: string[]
}

/**
 * Reads a ControlNet's config and headers, and checks that they belong together and to the base model.
 *
 * @param path a folder in the diffusers layout, or a single file with diffusers' names or those of the original program
 * @throws SwapError `SWAP_CONTROL_MODEL` for one of another family; `SWAP_MODEL_…`, `SWAP_TENSOR_…`, `SWAP_FILE_…`
 */
export async function readControl(path: string, base: Model): Promise<ControlModel> {
  const found = await stat(path).catch(() => undefined)
  if (!found) {
    throw new SwapError('SWAP_MODEL_NOT_FOUND', `there is no ControlNet at "${path}"`, {
      hint: 'give the path of a diffusers folder or of a .safetensors file',
    })
  }
  const warnings: string[] = []
  const { spec, stored } = found.isDirectory() ? await readFolder(path, warnings) : await readFile(path, base)
  checkFits(path, spec, base)
  return { spec, tensors: matchTensors(expectedControl(spec), new Map([['controlnet', stored]]), warnings), warnings }
}

interface Read {
  spec: ControlNetSpec
  stored: StoredTensor[]
}

async function readFolder(path: string, warnings: string[]): Promise<Read> {
  const config = await readConfig(join(path, 'config.json'), 'the folder must be a ControlNet in the diffusers layout')
  const spec = controlSpec(config)
  const unknown = config.unused().filter((key) => !key.startsWith('_'))
  if (unknown.length > 0) warnings.push(`"${config.file}": ${unknown.join(', ')} not known, passed over`)
  return { spec, stored: await readTensors(path, 'controlnet') }
}

/** ControlNetModel's config -> its spec, with what a file lacks as diffusers' constructor has it. */
function controlSpec(config: Config): ControlNetSpec {
  const hint = 'use a ControlNet for Stable Diffusion 1.x, 2.x or XL'
  if (config.string('_class_name', 'ControlNetModel') !== 'ControlNetModel')
    throw config.unsupported('_class_name', hint)
  config.neutral('controlnet_conditioning_channel_order', 'rgb')
  config.neutral('global_pool_conditions', false)
  return {
    unet: unetSpec(config, 'down'),
    imageChannels: config.integer('conditioning_channels', 3),
    imageWidths: imageWidths(config),
  }
}

function imageWidths(config: Config): number[] {
  const key = 'conditioning_embedding_out_channels'
  const widths = config.integers(key, [16, 32, 96, 256])
  if (widths.length === 0 || widths.length > 16) throw config.invalid(key, 'a list of 1 to 16')
  return widths
}

async function readFile(path: string, base: Model): Promise<Read> {
  const own = await realpath(path)
  const tensors = PICKLES.includes(extname(path).toLowerCase())
    ? (await (await import('../pickle/index.ts')).readTorchArchive(own)).tensors
    : (await readHeader(own)).tensors
  const read = controlOf(path, tensors, base.spec.unet)
  return { spec: read.spec, stored: read.tensors.map((tensor) => ({ ...tensor, file: own })) }
}

const PICKLES = ['.ckpt', '.pt', '.pth', '.bin']

/** The residuals fit the U-Net's features, the text states are the same, the picture is made as small as the latents. */
function checkFits(path: string, { unet, imageChannels, imageWidths }: ControlNetSpec, base: Model): void {
  const unfit = (what: string): SwapError =>
    new SwapError('SWAP_CONTROL_MODEL', `the ControlNet "${path}" is not made for "${base.name}": ${what}`, {
      hint: `use one for ${FAMILIES[base.family] ?? 'this model'}`,
    })
  const other = base.spec.unet
  for (const [what, of] of [
    ['levels of width', ({ levels }: UNetSpec) => levels.map(({ channels }) => channels).join(', ')],
    ['layers a level', ({ levels }: UNetSpec) => levels.map(({ layers }) => layers).join(', ')],
    ['text states of width', ({ crossAttentionDim }: UNetSpec) => String(crossAttentionDim)],
  ] as const) {
    if (of(unet) !== of(other)) throw unfit(`it has ${what} ${of(unet)}, the U-Net ${of(other)}`)
  }
  if (unet.pooledWidth && unet.pooledWidth !== other.pooledWidth) {
    throw unfit(`it takes a pooled text state of width ${unet.pooledWidth}, the U-Net ${other.pooledWidth || 'none'}`)
  }
  const { latentChannels } = base.spec.vae
  if (unet.inChannels !== latentChannels) {
    throw unfit(`it takes latents of ${unet.inChannels} channels, the VAE has ${latentChannels}`)
  }
  if (imageChannels !== 3) throw unfit(`it takes pictures of ${imageChannels} channels, not 3`)
  const factor = 2 ** (imageWidths.length - 1)
  if (factor !== base.vaeFactor) {
    throw unfit(`it makes its picture ${factor} times smaller, the VAE ${base.vaeFactor} times`)
  }
}

const FAMILIES: Partial<Record<string, string>> = {
  sd1: 'Stable Diffusion 1.x',
  sd2: 'Stable Diffusion 2.x',
  sdxl: 'Stable Diffusion XL',
}
