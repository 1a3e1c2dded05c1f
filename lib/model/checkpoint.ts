/** What a single file's tensors say about the model: the spec, from their names and shapes alone. */
import { SwapError } from '../errors.ts'
import type { TextEncoderSpec, UNetLevelSpec, UNetSpec, VaeSpec } from '../native.ts'
import type { TextNaming } from './ldm.ts'
import type { HeaderTensor } from './safetensors.ts'

export const UNET = 'model.diffusion_model.'
export const VAE = 'first_stage_model.'

/** Names that are longer are nobody's. */
const NAME_LIMIT = 256
const MAX_SIZE = 2 ** 24
/** Far above any model, and low enough that a damaged file cannot fill the memory. */
const MAX_BLOCKS = 64

/** The tensors of a file by name. */
export class Checkpoint {
  readonly file: string
  readonly tensors: ReadonlyMap<string, HeaderTensor>
  readonly #scopes = new Set<string>()

  constructor(file: string, tensors: readonly HeaderTensor[]) {
    this.file = file
    this.tensors = new Map(tensors.map((tensor) => [tensor.name, tensor]))
    for (const { name } of tensors) {
      if (name.length > NAME_LIMIT) continue
      for (let dot = name.indexOf('.'); dot >= 0; dot = name.indexOf('.', dot + 1)) {
        this.#scopes.add(name.slice(0, dot + 1))
      }
    }
  }

  has(name: string): boolean {
    return this.tensors.has(name)
  }

  /** True where a name begins so; `scope` ends in a dot. */
  within(scope: string): boolean {
    return this.#scopes.has(scope)
  }

  /** A length of a tensor's shape. */
  size(name: string, axis: number): number {
    const shape = this.tensors.get(name)?.shape
    if (!shape) {
      throw new SwapError('SWAP_MODEL_TENSOR_MISSING', `"${this.file}" lacks ${name}`, {
        hint: 'the file is incomplete, or no whole Stable Diffusion checkpoint',
      })
    }
    const size = shape[axis]
    if (size === undefined || size < 1 || size > MAX_SIZE) {
      throw new SwapError('SWAP_MODEL_TENSOR_SHAPE', `"${this.file}": ${name} has the shape [${shape}]`, {
        hint: 'the file is damaged, or no Stable Diffusion checkpoint',
      })
    }
    return size
  }

  /** How many of `scope0.`, `scope1.`, … there are. */
  count(scope: string): number {
    let count = 0
    while (this.within(`${scope}${count}.`)) count++
    if (count > MAX_BLOCKS) throw this.unsupported(`has ${count} of ${scope}*`)
    return count
  }

  unsupported(what: string, hint = 'use a text-to-image checkpoint of Stable Diffusion 1.x, 2.x or XL'): SwapError {
    return new SwapError('SWAP_MODEL_UNSUPPORTED', `"${this.file}" ${what}`, { hint })
  }
}

/** SDXL conditions its U-Net on sizes and a pooled text state. */
export function isXl(file: Checkpoint): boolean {
  return file.has(`${UNET}label_emb.0.0.weight`)
}

/** The U-Net's spec; heads are not in the tensors: eight beside convolutions (1.x), else 64 wide (2.x, XL). */
export function unetOf(file: Checkpoint, encoders: readonly TextEncoderSpec[]): UNetSpec {
  const levels = levelsOf(file)
  const middle = file.count(`${UNET}middle_block.1.transformer_blocks.`)
  const attention = [...file.tensors.keys()].find(
    (name) => name.startsWith(UNET) && name.endsWith('.attn2.to_k.weight'),
  )
  if (attention === undefined) throw file.unsupported('has a U-Net without cross-attention')
  const proj = file.tensors.get(`${attention.slice(0, attention.indexOf('transformer_blocks.'))}proj_in.weight`)
  const linear = proj?.shape.length === 2
  const heads = (channels: number): number => (linear ? Math.max(1, Math.floor(channels / 64)) : 8)
  const first = file.size(`${UNET}input_blocks.0.0.weight`, 0)
  const last = levels.at(-1)!
  const pooledWidth = isXl(file) ? (encoders.find(({ projectionDim }) => projectionDim > 0)?.projectionDim ?? 0) : 0
  const timeIds = pooledWidth > 0 ? (file.size(`${UNET}label_emb.0.0.weight`, 1) - pooledWidth) / 6 : 0
  if (pooledWidth > 0 && (!Number.isSafeInteger(timeIds) || timeIds < 1)) {
    throw file.unsupported('takes other conditions than sizes and a pooled text state')
  }
  const spec: UNetSpec = {
    inChannels: file.size(`${UNET}input_blocks.0.0.weight`, 1),
    outChannels: file.size(`${UNET}out.2.weight`, 0),
    sampleSize: 64,
    levels: levels.map((level) => ({ ...level, heads: heads(level.channels) })),
    midAttention: middle > 0,
    midHeads: heads(last.channels),
    midTransformerLayers: Math.max(1, middle),
    crossAttentionDim: file.size(attention, 1),
    linearProjection: linear,
    // 2.x was trained so; its attention overflows in half precision otherwise.
    upcastAttention: linear && !isXl(file),
    normGroups: 32,
    normEps: 1e-5,
    flipSinToCos: true,
    freqShift: 0,
    downsamplePadding: 1,
    ...(pooledWidth > 0 && { pooledWidth, timeIdWidth: timeIds }),
  }
  for (const channels of [first, ...spec.levels.map((level) => level.channels)]) {
    if (channels % spec.normGroups !== 0 || channels % heads(channels) !== 0) throw needsConfig(file, channels)
  }
  return spec
}

function levelsOf(file: Checkpoint): UNetLevelSpec[] {
  const levels: UNetLevelSpec[] = []
  const open = (): UNetLevelSpec => ({
    channels: 0,
    layers: 0,
    heads: 8,
    transformerLayers: 1,
    downAttention: false,
    upAttention: false,
  })
  let level = open()
  for (let input = 1; file.within(`${UNET}input_blocks.${input}.`); input++) {
    const block = `${UNET}input_blocks.${input}.`
    if (file.has(`${block}0.op.weight`)) {
      levels.push(level)
      level = open()
      continue
    }
    level.channels = file.size(`${block}0.out_layers.3.weight`, 0)
    level.layers++
    const depth = file.count(`${block}1.transformer_blocks.`)
    if (depth > 0) Object.assign(level, { downAttention: true, transformerLayers: depth })
  }
  levels.push(level)
  if (levels.some(({ layers }) => layers === 0 || layers > MAX_BLOCKS) || levels.length > 16) {
    throw file.unsupported('has a U-Net whose input_blocks are not those of Stable Diffusion')
  }
  let output = 0
  for (const level of levels.toReversed()) {
    const depth = file.count(`${UNET}output_blocks.${output}.1.transformer_blocks.`)
    if (depth > 0) Object.assign(level, { upAttention: true, transformerLayers: depth })
    output += level.layers + 1
  }
  return levels
}

/** The VAE's spec. */
export function vaeOf(file: Checkpoint): VaeSpec {
  if (!file.within(VAE)) {
    throw new SwapError('SWAP_MODEL_TENSOR_MISSING', `"${file.file}" has no VAE`, {
      hint: 'use the checkpoint that has its VAE in it',
    })
  }
  const levels = file.count(`${VAE}encoder.down.`)
  if (levels === 0 || levels > 16) throw file.unsupported(`has a VAE of ${levels} levels`)
  const channels = Array.from({ length: levels }, (_, level) =>
    file.size(`${VAE}encoder.down.${level}.block.0.conv1.weight`, 0),
  )
  const uneven = channels.find((width) => width % 32 !== 0)
  if (uneven !== undefined) throw needsConfig(file, uneven)
  return {
    inChannels: file.size(`${VAE}encoder.conv_in.weight`, 1),
    outChannels: file.size(`${VAE}decoder.conv_out.weight`, 0),
    latentChannels: file.size(`${VAE}decoder.conv_in.weight`, 1),
    channels,
    layers: file.count(`${VAE}encoder.down.0.block.`),
    normGroups: 32,
    midAttention: file.has(`${VAE}encoder.mid.attn_1.q.weight`),
    quantConv: file.has(`${VAE}quant_conv.weight`),
    postQuantConv: file.has(`${VAE}post_quant_conv.weight`),
    scalingFactor: isXl(file) ? 0.13025 : 0.18215,
    shiftFactor: 0,
  }
}

/** A text encoder of the file: where it lies and how it is named. */
export interface TextPlace {
  prefix: string
  naming: TextNaming
}

/** The file's text encoders, in the order in which their states are put together. */
export function textPlaces(file: Checkpoint): TextPlace[] {
  const clip = (scope: string): TextPlace => ({
    // The oldest files have the encoder's own names, those of transformers before 5 a prefix more.
    prefix: file.within(`${scope}text_model.`) ? `${scope}text_model.` : scope,
    naming: 'clip',
  })
  if (file.within('conditioner.embedders.0.transformer.') && file.within('conditioner.embedders.1.model.')) {
    return [
      clip('conditioner.embedders.0.transformer.'),
      { prefix: 'conditioner.embedders.1.model.', naming: 'openclip' },
    ]
  }
  if (file.within('conditioner.embedders.0.model.')) throw file.unsupported('is a refiner')
  if (file.within('cond_stage_model.transformer.')) return [clip('cond_stage_model.transformer.')]
  if (file.within('cond_stage_model.model.')) return [{ prefix: 'cond_stage_model.model.', naming: 'openclip' }]
  throw new SwapError('SWAP_MODEL_TENSOR_MISSING', `"${file.file}" has no text encoder`, {
    hint: 'use the checkpoint that has its text encoder in it',
  })
}

/** A text encoder's spec. The heads of every CLIP are 64 wide. */
export function textEncoderOf(file: Checkpoint, { prefix, naming }: TextPlace, xl: boolean): TextEncoderSpec {
  const open = naming === 'openclip'
  const [embeddings, positions, layers, first] = open
    ? ['token_embedding.weight', 'positional_embedding', 'transformer.resblocks.', 'mlp.c_fc.weight']
    : ['embeddings.token_embedding.weight', 'embeddings.position_embedding.weight', 'encoder.layers.', 'mlp.fc1.weight']
  const vocab = file.size(prefix + embeddings, 0)
  const width = file.size(prefix + embeddings, 1)
  const stored = file.count(prefix + layers)
  if (stored === 0 || width % 64 !== 0) throw needsConfig(file, width)
  const projects = xl && open
  return {
    vocab,
    width,
    // 2.x takes the last state but one: its last layer is never used. Some files come without it already.
    layers: open && !xl && !(width === 1024 && stored === 23) ? Math.max(1, stored - 1) : stored,
    heads: width / 64,
    intermediate: file.size(`${prefix}${layers}0.${first}`, 0),
    positions: file.size(prefix + positions, 0),
    activation: open ? 'gelu' : 'quick_gelu',
    normEps: 1e-5,
    skipLayers: xl ? 1 : 0,
    finalNorm: !xl,
    projectionDim: projects ? file.size(`${prefix}text_projection`, 1) : 0,
    eos: vocab - 1,
  }
}

function needsConfig(file: Checkpoint, width: number): SwapError {
  return file.unsupported(
    `has a layer of width ${width}, whose heads and groups cannot be told from the tensors`,
    'give the folder of its configs as the option "config"',
  )
}
