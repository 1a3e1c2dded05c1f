/** Where a model comes from, what it is made of, and where each of its tensors lies. */
import { realpath } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { SwapError } from '../errors.ts'
import type { ModelSpec, TensorEntry } from '../native.ts'
import { ClipTokenizer } from '../prompt/tokenizer.ts'
import { type Family, type ModelDefaults, readDefaults } from './defaults.ts'
import { fingerprint } from './fingerprint.ts'
import { modelPath, readIndex, readTensors, type StoredTensor } from './folder.ts'
import { type Config, readConfig } from './json.ts'
import type { ComponentKind } from './keys.ts'
import { noiseSpec, type SchedulerFile } from './scheduler.ts'
import { tensorTable } from './table.ts'
import { textEncoderSpec } from './text_encoder.ts'
import { unetSpec } from './unet.ts'
import { vaeSpec } from './vae.ts'

export type { Family, ModelDefaults } from './defaults.ts'
export { noiseSpec, type SchedulerFile, type SchedulerName, schedulerSpec } from './scheduler.ts'

/** A base model, read from its configs and headers; its weights are still on the disk. */
export interface Model {
  /** `'mini'`, or the folder's own name. */
  name: string
  /** The folder, absolute. */
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
  /** What was passed over: unknown keys of configs, tensors that nothing uses. */
  warnings: string[]
}

/**
 * Reads a model: its configs, its tensor headers and its tokenizer, and checks that they belong together.
 *
 * @param model `'mini'` or the path of a diffusers folder
 * @throws SwapError `SWAP_MODEL_…`, `SWAP_TENSOR_…`, `SWAP_SCHEDULER_…`, `SWAP_TOKENIZER_…`, `SWAP_FILE_…`
 */
export async function readModel(model: string): Promise<Model> {
  const path = modelPath(model)
  await readIndex(path)
  const warnings: string[] = []
  const configs: Config[] = []
  const config = async (component: string): Promise<Config> => {
    const read = await readConfig(join(path, component, 'config.json'))
    configs.push(read)
    return read
  }
  const scheduler = await readScheduler(path)
  const spec: ModelSpec = {
    textEncoders: [textEncoderSpec(await config('text_encoder'))],
    unet: unetSpec(await config('unet')),
    vae: vaeSpec(await config('vae')),
    noise: noiseSpec(scheduler),
  }
  for (const read of configs) {
    const unknown = read.unused().filter((key) => !key.startsWith('_'))
    // transformers' configs carry dozens of keys for generating text.
    if (unknown.length > 0 && read.file !== join(path, 'text_encoder', 'config.json')) {
      warnings.push(`"${read.file}": ${unknown.join(', ')} not known, passed over`)
    }
  }
  checkTogether(path, spec)
  const stored = new Map<ComponentKind, StoredTensor[]>()
  for (const component of ['text_encoder', 'unet', 'vae'] as const) {
    stored.set(component, await readTensors(join(path, component), component))
  }
  const tensors = tensorTable(spec, stored, warnings)
  const { positions, vocab } = spec.textEncoders[0]!
  const vaeFactor = 2 ** (spec.vae.channels.length - 1)
  return {
    name: model === 'mini' ? 'mini' : basename(await realpath(path).catch(() => path)),
    path,
    ...(await readDefaults(path, spec)),
    spec,
    tensors,
    tokenizers: [await ClipTokenizer.open(join(path, 'tokenizer'), { positions, vocab })],
    scheduler,
    resolution: spec.unet.sampleSize * vaeFactor,
    vaeFactor,
    fingerprint: await fingerprint(spec, tensors),
    warnings,
  }
}

async function readScheduler(path: string): Promise<SchedulerFile> {
  const config = await readConfig(join(path, 'scheduler', 'scheduler_config.json'))
  return { className: config.string('_class_name', ''), config: config.object() }
}

/** The parts fit each other. */
function checkTogether(path: string, { textEncoders, unet, vae }: ModelSpec): void {
  const unfit = (what: string, hint: string): SwapError =>
    new SwapError('SWAP_MODEL_UNSUPPORTED', `"${path}": ${what}`, { hint })
  const width = textEncoders[0]!.width
  if (width !== unet.crossAttentionDim) {
    throw unfit(
      `the U-Net takes text states of width ${unet.crossAttentionDim}, the text encoder gives ${width}`,
      'unet and text_encoder are not of one model',
    )
  }
  if (unet.inChannels !== vae.latentChannels || unet.outChannels !== vae.latentChannels) {
    throw unfit(
      `the U-Net has ${unet.inChannels} channels in and ${unet.outChannels} out, the latents ${vae.latentChannels}`,
      'inpainting and depth models are not supported; choose a text-to-image model',
    )
  }
}
