/** A checkpoint of a single file, with the tensors' names of Stable Diffusion's own program. */
import { stat } from 'node:fs/promises'
import { extname, join } from 'node:path'
import { SwapError } from '../errors.ts'
import type { ModelSpec, NoiseSpec, TensorEntry } from '../native.ts'
import { ClipTokenizer } from '../prompt/tokenizer.ts'
import { Checkpoint, isXl, type TextPlace, textEncoderOf, textPlaces, UNET, unetOf, VAE, vaeOf } from './checkpoint.ts'
import { expectedTensors } from './expected.ts'
import { modelPath } from './folder.ts'
import { type Config, exists, readConfig } from './json.ts'
import { type LdmPlace, ldmBlocks, ldmText, ldmUnet, ldmVae } from './ldm.ts'
import { type HeaderTensor, readHeader } from './safetensors.ts'
import { noiseSpec, type SchedulerFile } from './scheduler.ts'
import { floating, some } from './table.ts'
import { textEncoderSpec } from './text_encoder.ts'
import { unetSpec } from './unet.ts'
import { vaeSpec } from './vae.ts'

export interface SingleFileOptions {
  /** A diffusers folder whose configs, tokenizer and scheduler hold; its weights are not read. */
  config?: string | undefined
  predictionType?: NoiseSpec['predictionType'] | undefined
}

/** What a model's files say, whatever their layout. */
export interface ModelParts {
  spec: ModelSpec
  tensors: TensorEntry[]
  /** One for each text encoder. */
  openTokenizers(): Promise<ClipTokenizer[]>
  scheduler: SchedulerFile
  /** Where no negative prompt was given, its states are zeros. */
  zeroNegative: boolean
  /** Where a swap.json may lie. */
  home: string
  warnings: string[]
}

/** True for a file that may be a checkpoint. */
export async function isSingleFile(path: string): Promise<boolean> {
  if (!['.safetensors', '.ckpt'].includes(extname(path).toLowerCase())) return false
  return (await stat(path).catch(() => undefined))?.isFile() === true
}

/**
 * Reads a checkpoint's header and works out what it is from the tensors.
 *
 * @throws SwapError `SWAP_MODEL_…`, `SWAP_TENSOR_…`, `SWAP_SCHEDULER_…`, `SWAP_FILE_…`
 */
export async function readSingleFile(path: string, options: SingleFileOptions): Promise<ModelParts> {
  const { tensors: stored, metadata } = await readStored(path)
  const file = new Checkpoint(path, stored)
  refuseOthers(file)
  const warnings: string[] = []
  const given = options.config === undefined ? undefined : await configFolder(options.config)
  const config = async (part: string): Promise<Config | undefined> => {
    const name = given && join(given, part, part === 'scheduler' ? 'scheduler_config.json' : 'config.json')
    return name !== undefined && (await exists(name)) ? await readConfig(name) : undefined
  }
  const places = textPlaces(file)
  const xl = isXl(file)
  const textEncoders = await Promise.all(
    places.map(async (place, index) => {
      const own = await config(index === 0 ? 'text_encoder' : `text_encoder_${index + 1}`)
      if (!own) return textEncoderOf(file, place, xl)
      return textEncoderSpec(own, xl ? (index === 0 ? 'first' : 'second') : 'only')
    }),
  )
  const unetConfig = await config('unet')
  const vaeConfig = await config('vae')
  const unet = unetConfig ? unetSpec(unetConfig) : unetOf(file, textEncoders)
  const schedulerConfig = await config('scheduler')
  const two = places[0]!.naming === 'openclip'
  const scheduler = schedulerConfig
    ? { className: schedulerConfig.string('_class_name', ''), config: schedulerConfig.object() }
    : usualScheduler(xl, two)
  if (!schedulerConfig) {
    const prediction = options.predictionType ?? predictionOf(file, metadata)
    // The inpainting model of 2.x was made of the base model at 512 px, which predicts noise.
    const usual = two && unet.inChannels !== 9 ? 'v_prediction' : 'epsilon'
    if (prediction === undefined && usual === 'v_prediction') {
      warnings.push(
        `"${path}": whether this model of Stable Diffusion 2.x predicts v or noise is not in the file: taken for v; ` +
          "if pictures are noise, give predictionType: 'epsilon'",
      )
    }
    scheduler.config.prediction_type = prediction ?? usual
    if (file.has('ztsnr')) scheduler.config.rescale_betas_zero_snr = true
  }
  const noise = noiseSpec(scheduler)
  if (!unetConfig) {
    // Of 2.x those that predict v were trained at 768 px, the others at 512.
    const v = (options.predictionType ?? noise.predictionType) === 'v_prediction'
    unet.sampleSize = xl ? 128 : two && v ? 96 : 64
  }
  const spec: ModelSpec = {
    textEncoders,
    unet,
    vae: vaeConfig ? vaeSpec(vaeConfig) : vaeOf(file),
    noise,
  }
  return {
    spec,
    tensors: table(file, spec, places, warnings),
    openTokenizers: () => openTokenizers(given, spec, places),
    scheduler,
    zeroNegative: xl,
    home: given ?? path,
    warnings,
  }
}

async function readStored(
  path: string,
): Promise<{ tensors: readonly HeaderTensor[]; metadata: Record<string, string> }> {
  if (extname(path).toLowerCase() === '.safetensors') return await readHeader(path)
  const { readTorchArchive } = await import('../pickle/index.ts')
  const { tensors } = await readTorchArchive(path)
  return { tensors, metadata: {} }
}

async function configFolder(config: string): Promise<string> {
  const path = modelPath(config)
  if (await exists(path, 'folder')) return path
  throw new SwapError('SWAP_MODEL_NOT_FOUND', `there is no folder of configs at "${path}"`, {
    hint: 'give a diffusers folder of the same architecture; its weights are not needed',
  })
}

/** Files that are something else, each by its name. */
function refuseOthers(file: Checkpoint): void {
  const names = [...file.tensors.keys()]
  if (file.has(`${UNET}input_blocks.0.0.weight`)) {
    if (names.some((name) => name.startsWith(UNET) && /\.time_(stack|mixer)\./.test(name))) {
      throw file.unsupported('is a video model')
    }
    if (file.has(`${UNET}label_emb.weight`)) throw file.unsupported('is an upscaler')
    // Its latents have a mean and a deviation of their own, and its U-Net is asked with the noise itself.
    if (file.has('edm_mean')) throw file.unsupported('is Playground 2.5 or one of its kind (EDM)')
    return
  }
  const kinds: [RegExp, string, string?][] = [
    [
      /(^|[._])lora[._](down|up|A|B|mid)\b|\.(hada|lokr)_w1/,
      'is a LoRA, not a model',
      'give the model that it was made for, and this file in "loras"',
    ],
    [
      /^control_model\.|^input_hint_block\.|^controlnet_cond_embedding\./,
      'is a ControlNet, not a model',
      'give the model that it was made for, and this file in "control"',
    ],
    [/(^|\.)(joint_blocks|double_blocks)\./, 'is a model of another architecture (a transformer)'],
    [
      /^(down_blocks|up_blocks)\.|^text_model\.|^encoder\.layers\./,
      'is one part of a diffusers folder, not a whole model',
      'give the folder that holds model_index.json',
    ],
    [/^(first_stage_model\.)?(encoder|decoder)\./, 'is a VAE, not a model'],
  ]
  for (const [pattern, what, hint] of kinds) {
    if (names.some((name) => pattern.test(name))) throw file.unsupported(what, hint)
  }
  throw file.unsupported(`is no Stable Diffusion checkpoint: it has no ${UNET}input_blocks`)
}

/** What the training programs of some models left in the file. */
function predictionOf(file: Checkpoint, metadata: Record<string, string>): NoiseSpec['predictionType'] | undefined {
  if (file.has('v_pred')) return 'v_prediction'
  const word = metadata['modelspec.prediction_type'] ?? metadata['modelspec.predict_key']
  if (word === undefined) return undefined
  return word.startsWith('v') ? 'v_prediction' : word.startsWith('eps') ? 'epsilon' : undefined
}

/** The scheduler of the family's first models. */
function usualScheduler(xl: boolean, two: boolean): SchedulerFile {
  return {
    className: xl ? 'EulerDiscreteScheduler' : two ? 'DDIMScheduler' : 'PNDMScheduler',
    config: {
      beta_start: 0.00085,
      beta_end: 0.012,
      beta_schedule: 'scaled_linear',
      num_train_timesteps: 1000,
      steps_offset: 1,
      clip_sample: false,
      set_alpha_to_one: false,
      skip_prk_steps: true,
      timestep_spacing: 'leading',
    },
  }
}

async function openTokenizers(
  folder: string | undefined,
  spec: ModelSpec,
  places: readonly TextPlace[],
): Promise<ClipTokenizer[]> {
  return await Promise.all(
    places.map(async ({ naming }, index) => {
      const { positions, vocab } = spec.textEncoders[index]!
      const own = folder && join(folder, index === 0 ? 'tokenizer' : `tokenizer_${index + 1}`)
      if (own !== undefined && (await exists(own, 'folder'))) return await ClipTokenizer.open(own, { positions, vocab })
      return await ClipTokenizer.standard(naming === 'openclip' ? '!' : '<|endoftext|>', { positions, vocab })
    }),
  )
}

/** Left by training programs, or used by nothing: no sign of a wrong file. */
const HARMLESS =
  /^model_ema\.|(^|\.)(position_ids|logit_scale|num_batches_tracked|v_pred|ztsnr)$|(^|\.)text_projection(\.weight)?$|^first_stage_model\.loss\.|^(betas|alphas_cumprod\w*|sqrt_\w+|log_one_minus_\w+|posterior_\w+|lvlb_weights|logvar|scale_factor|denoiser\.\w+|global_step|epoch)$/

/** The tensor table, in the order of `expectedTensors`; every tensor of the file that a model uses stands in it once. */
function table(file: Checkpoint, spec: ModelSpec, places: readonly TextPlace[], warnings: string[]): TensorEntry[] {
  const expected = expectedTensors(spec)
  const place = ldmPlaces(spec, places)
  const left = new Set(file.tensors.keys())
  const missing: string[] = []
  const entries: TensorEntry[] = []
  for (const [name, shape] of expected) {
    const at = place(name)
    const tensor = at && file.tensors.get(at.name)
    if (!at || !tensor) {
      missing.push(at?.name ?? name)
      continue
    }
    left.delete(at.name)
    entries.push(entry(file.file, name, shape, at, tensor))
  }
  if (missing.length > 0) {
    throw new SwapError(
      'SWAP_MODEL_TENSOR_MISSING',
      `"${file.file}" lacks ${missing.length} of ${expected.size} tensors: ${some(missing)}`,
      { hint: 'the file is incomplete, or of another architecture' },
    )
  }
  const unused = [...left].filter((name) => !HARMLESS.test(name) && !isUnusedLayer(name, spec, places))
  if (unused.length > 0) {
    warnings.push(`"${file.file}" has ${unused.length} tensors that are not used: ${some(unused)}`)
  }
  return entries
}

/** The place of a canonical name in the file. */
export function ldmPlaces(spec: ModelSpec, places: readonly TextPlace[]): (name: string) => LdmPlace | undefined {
  const blocks = ldmBlocks(spec.unet.levels)
  return (name) => {
    const text = /^text_encoder\.(\d)\.(.+)$/.exec(name)
    if (text) {
      const { prefix, naming } = places[Number(text[1])]!
      const at = ldmText(text[2]!, naming)
      return { ...at, name: prefix + at.name }
    }
    if (name.startsWith('vae.')) return { name: VAE + ldmVae(name.slice(4), spec.vae.channels.length) }
    const inner = ldmUnet(name.slice('unet.'.length), blocks)
    return inner === undefined ? undefined : { name: UNET + inner }
  }
}

/** OpenCLIP's last layer, which 2.x passes over. */
function isUnusedLayer(name: string, spec: ModelSpec, places: readonly TextPlace[]): boolean {
  return places.some(
    ({ prefix, naming }, index) =>
      naming === 'openclip' &&
      spec.textEncoders.length === 1 &&
      name.startsWith(`${prefix}transformer.resblocks.${spec.textEncoders[index]!.layers}.`),
  )
}

function entry(
  file: string,
  name: string,
  shape: readonly number[],
  at: LdmPlace,
  { dtype, shape: stored, begin, end }: HeaderTensor,
): TensorEntry {
  const rows = at.third === undefined ? shape : [shape[0]! * 3, ...shape.slice(1)]
  const wanted = at.transposed ? [...rows].reverse() : rows
  // 1x1 convolutions for linear layers, and the other way round: the bytes are the same.
  const plain = (sizes: readonly number[]): string => sizes.join().replace(/(,1)+$/, '')
  if (plain(stored) !== plain(wanted)) {
    throw new SwapError(
      'SWAP_MODEL_TENSOR_SHAPE',
      `"${file}": ${at.name} has shape [${stored}]; the model asks for [${wanted}]`,
      { hint: 'the file is damaged, or of another architecture' },
    )
  }
  const kind = floating(dtype, file, at.name)
  const third = (end - begin) / 3
  return {
    name,
    dtype: kind,
    shape: [...shape],
    file,
    begin: at.third === undefined ? begin : begin + at.third * third,
    end: at.third === undefined ? end : begin + (at.third + 1) * third,
    ...(at.transposed && { transposed: true }),
  }
}
