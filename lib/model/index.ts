/** Where a model comes from, what it is made of, and where each of its tensors lies. */
import { realpath } from 'node:fs/promises'
import { basename, extname, join } from 'node:path'
import { SwapError } from '../errors.ts'
import type { ModelSpec, TensorEntry } from '../native.ts'
import { ClipTokenizer } from '../prompt/tokenizer.ts'
import { type Family, type ModelDefaults, readDefaults } from './defaults.ts'
import { isUnread } from './expected.ts'
import { fingerprint } from './fingerprint.ts'
import { has, modelPath, readIndex, readTensors, type StoredTensor } from './folder.ts'
import { type Config, readConfig } from './json.ts'
import type { ComponentKind } from './keys.ts'
import { noiseSpec, type SchedulerFile } from './scheduler.ts'
import { isSingleFile, type ModelParts, readSingleFile, type SingleFileOptions } from './single_file.ts'
import { tensorTable } from './table.ts'
import { textEncoderSpec } from './text_encoder.ts'
import { unetSpec } from './unet.ts'
import { vaeSpec } from './vae.ts'

export { attendingLevels, type Family, type ModelDefaults } from './defaults.ts'
export { noiseSpec, type SchedulerFile, type SchedulerName, schedulerSpec } from './scheduler.ts'
export type { SingleFileOptions } from './single_file.ts'

/** A base model, read from its configs and headers; its weights are still on the disk. */
export interface Model {
  /** `'mini'`, or the folder's or file's own name. */
  name: string
  /** The folder or file, absolute. */
  path: string
  family: Family
  spec: ModelSpec
  /** Exactly the tensors that `spec` asks for, each within its file. */
  tensors: TensorEntry[]
  /** One for each text encoder. */
  tokenizers: ClipTokenizer[]
  scheduler: SchedulerFile
  /** Pixels a side that the U-Net was trained at. */
  resolution: number
  /** Pixels a latent pixel. */
  vaeFactor: number
  /** Hex SHA-256 of the text encoders' token embeddings and specs; equal for fp16 and fp32 files of one model. */
  fingerprint: string
  defaults: ModelDefaults
  /** Where no negative prompt was given, its states are zeros; an empty one is encoded (SDXL). */
  zeroNegative: boolean
  /** What was passed over: unknown keys of configs, tensors that nothing uses. */
  warnings: string[]
}

/** What is not needed to read the weights, and takes a while. */
type ModelRest = Pick<Model, 'tokenizers' | 'fingerprint'>

/** A model whose tensors are known: an engine can read them while the rest is made. */
export interface ModelLayout extends Omit<Model, keyof ModelRest> {
  /**
   * Opens the tokenizers and takes the fingerprint.
   *
   * @throws SwapError `SWAP_TOKENIZER_…`, `SWAP_FILE_…`
   */
  rest(): Promise<ModelRest>
}

/** Reads a model whole: {@link readLayout}, and the rest. */
export async function readModel(model: string, options: SingleFileOptions = {}): Promise<Model> {
  const { rest, ...layout } = await readLayout(model, options)
  return { ...layout, ...(await rest()) }
}

/**
 * Reads a model's configs and tensor headers, and checks that they belong together.
 *
 * @param model `'mini'`, the path of a diffusers folder, or of a checkpoint of a single file
 * @throws SwapError `SWAP_MODEL_…`, `SWAP_TENSOR_…`, `SWAP_SCHEDULER_…`, `SWAP_FILE_…`
 */
export async function readLayout(model: string, options: SingleFileOptions = {}): Promise<ModelLayout> {
  const path = modelPath(model)
  const single = await isSingleFile(path)
  if (!single && options.config !== undefined) {
    throw new SwapError('SWAP_OPTION_INVALID', `option "config" of open() is for checkpoints of a single file`, {
      hint: `"${path}" has its own configs`,
    })
  }
  const { home, openTokenizers, ...parts } = single ? await readSingleFile(path, options) : await readFolder(path)
  const { spec } = parts
  const tensors = parts.tensors.filter(({ name }) => !isUnread(spec, name))
  if (options.predictionType !== undefined) spec.noise.predictionType = options.predictionType
  if (single) checkTogether(path, spec)
  const vaeFactor = 2 ** (spec.vae.channels.length - 1)
  const own = basename(await realpath(path).catch(() => path))
  return {
    name: model === 'mini' ? 'mini' : single ? own.slice(0, own.length - extname(own).length) : own,
    path,
    ...(await readDefaults(home, spec)),
    ...parts,
    tensors,
    resolution: spec.unet.sampleSize * vaeFactor,
    vaeFactor,
    rest: async () => ({ tokenizers: await openTokenizers(), fingerprint: await fingerprint(spec, tensors) }),
  }
}

async function readFolder(path: string): Promise<ModelParts> {
  const index = await readIndex(path)
  const second = has(index, 'text_encoder_2')
  const warnings: string[] = []
  const configs: Config[] = []
  const config = async (component: string): Promise<Config> => {
    const read = await readConfig(join(path, component, 'config.json'))
    configs.push(read)
    return read
  }
  const scheduler = await readScheduler(path)
  const spec: ModelSpec = {
    textEncoders: second
      ? [
          textEncoderSpec(await config('text_encoder'), 'first'),
          textEncoderSpec(await config('text_encoder_2'), 'second'),
        ]
      : [textEncoderSpec(await config('text_encoder'))],
    unet: unetSpec(await config('unet')),
    vae: vaeSpec(await config('vae')),
    noise: noiseSpec(scheduler),
  }
  for (const read of configs) {
    const unknown = read.unused().filter((key) => !key.startsWith('_'))
    // transformers' configs carry dozens of keys for generating text.
    if (unknown.length > 0 && !read.file.startsWith(join(path, 'text_encoder'))) {
      warnings.push(`"${read.file}": ${unknown.join(', ')} not known, passed over`)
    }
  }
  checkTogether(path, spec)
  const stored = new Map<ComponentKind, StoredTensor[]>()
  const components: ComponentKind[] = ['text_encoder', ...(second ? (['text_encoder_2'] as const) : []), 'unet', 'vae']
  for (const component of components) {
    stored.set(component, await readTensors(join(path, component), component))
  }
  const openTokenizers = async () => {
    const tokenizers: ClipTokenizer[] = []
    for (const [index, { positions, vocab }] of spec.textEncoders.entries()) {
      const folder = join(path, index === 0 ? 'tokenizer' : `tokenizer_${index + 1}`)
      tokenizers.push(await ClipTokenizer.open(folder, { positions, vocab }))
    }
    return tokenizers
  }
  return {
    spec,
    tensors: tensorTable(spec, stored, warnings),
    openTokenizers,
    scheduler,
    zeroNegative: second && index.boolean('force_zeros_for_empty_prompt', true),
    home: path,
    warnings,
  }
}

/** Latents, a mask, and the latents of what is kept. */
const inpaintingChannels = ({ latentChannels }: ModelSpec['vae']): number => 2 * latentChannels + 1

/** True for a U-Net that takes a mask, and what is kept of a picture, beside the latents. */
export function isInpainting({ spec }: Model): boolean {
  return spec.unet.inChannels !== spec.vae.latentChannels
}

async function readScheduler(path: string): Promise<SchedulerFile> {
  const config = await readConfig(join(path, 'scheduler', 'scheduler_config.json'))
  return { className: config.string('_class_name', ''), config: config.object() }
}

/** The parts fit each other. */
function checkTogether(path: string, { textEncoders, unet, vae }: ModelSpec): void {
  const unfit = (what: string, hint: string): SwapError =>
    new SwapError('SWAP_MODEL_UNSUPPORTED', `"${path}": ${what}`, { hint })
  // The states of two encoders stand side by side.
  const widths = textEncoders.map(({ width }) => width)
  if (widths.reduce((sum, width) => sum + width, 0) !== unet.crossAttentionDim) {
    const given =
      widths.length === 1 ? `the text encoder gives ${widths[0]}` : `the text encoders give ${widths.join(' and ')}`
    throw unfit(
      `the U-Net takes text states of width ${unet.crossAttentionDim}, ${given}`,
      'unet and text_encoder are not of one model',
    )
  }
  const [first, second] = textEncoders
  if (second && first?.positions !== second.positions) {
    throw unfit(
      `the text encoders take ${first?.positions} and ${second.positions} tokens`,
      'text_encoder and text_encoder_2 are not of one model',
    )
  }
  const pooled = second?.projectionDim ?? 0
  if ((unet.pooledWidth ?? 0) !== pooled) {
    throw unfit(
      `the U-Net takes a pooled text state of width ${unet.pooledWidth ?? 0}, the text encoders give ${pooled}`,
      'unet and text_encoder_2 are not of one model',
    )
  }
  const known = unet.inChannels === vae.latentChannels || unet.inChannels === inpaintingChannels(vae)
  if (!known || unet.outChannels !== vae.latentChannels) {
    throw unfit(
      `the U-Net has ${unet.inChannels} channels in and ${unet.outChannels} out, the latents ${vae.latentChannels}`,
      'depth and editing models are not supported; choose a text-to-image or inpainting model',
    )
  }
}
