/** UNet2DConditionModel's config -> the U-Net's spec. */
import type { UNetLevelSpec, UNetSpec } from '../native.ts'
import type { Config } from './json.ts'

const DOWN = ['CrossAttnDownBlock2D', 'DownBlock2D']
const UP = ['CrossAttnUpBlock2D', 'UpBlock2D']
const MIDDLE = ['UNetMidBlock2DCrossAttn', 'UNetMidBlock2D']

// Far above any model, and low enough that a damaged config cannot fill the memory.
const MAX_LEVELS = 16
const MAX_LAYERS = 64

/**
 * Resolves the keys that a file lacks as diffusers' constructor does.
 *
 * diffusers lists the up blocks from the coarsest level and reverses heads, layers and depths for them, so that both
 * ways through a level share its numbers: here all of them stand at their level, the finest first.
 *
 * @param part `'down'` for a ControlNet: there is no way up, and no need for cross-attention
 * @throws SwapError `SWAP_MODEL_CONFIG`, `SWAP_MODEL_UNSUPPORTED`
 */
export function unetSpec(config: Config, part: 'whole' | 'down' = 'whole'): UNetSpec {
  refuseOthers(config)
  const down = blocks(config, 'down_block_types', DOWN, [DOWN[0]!, DOWN[0]!, DOWN[0]!, DOWN[1]!])
  const whole = part === 'whole'
  const up = whole ? blocks(config, 'up_block_types', UP, [UP[1]!, UP[0]!, UP[0]!, UP[0]!]) : down.map(() => UP[1]!)
  const count = down.length
  const channels = config.integers('block_out_channels', [320, 640, 1280, 1280])
  if (up.length !== count) throw config.invalid('up_block_types', `a list of ${count}, as down_block_types is`)
  if (channels.length !== count)
    throw config.invalid('block_out_channels', `a list of ${count}, as down_block_types is`)

  if (count > MAX_LEVELS) throw config.unsupported('down_block_types')
  const layers = config.perLevel('layers_per_block', count, 2, 1, MAX_LAYERS)
  // What diffusers calls attention_head_dim is the number of heads.
  const headsKey = config.get('num_attention_heads') == null ? 'attention_head_dim' : 'num_attention_heads'
  const heads = config.perLevel(headsKey, count, 8)
  // Some ControlNets have transformers without a layer between their two projections.
  const depths = transformerLayers(config, count, whole ? 1 : 0)
  // Without attention the middle is one resnet, with it two and a transformer between them.
  const middle = config.get('mid_block_type') === null ? null : config.string('mid_block_type', MIDDLE[0]!)
  if (middle === null || !MIDDLE.includes(middle)) throw config.unsupported('mid_block_type')
  const midAttention = middle === MIDDLE[0]

  const levels: UNetLevelSpec[] = channels.map((width, level) => ({
    channels: width,
    layers: layers[level]!,
    heads: heads[level]!,
    transformerLayers: depths[level]!,
    downAttention: down[level] === DOWN[0],
    upAttention: up[count - 1 - level] === UP[0],
  }))
  const attends = levels.map(
    (level, index) => level.downAttention || level.upAttention || (midAttention && index === count - 1),
  )
  if (whole && !attends.includes(true))
    throw config.unsupported('down_block_types', 'the U-Net must have cross-attention')
  const normGroups = config.integer('norm_num_groups', 32)
  levels.forEach((level, index) => {
    if (level.channels % normGroups !== 0) {
      throw config.invalid('norm_num_groups', `a divisor of block_out_channels' ${level.channels}`)
    }
    if (attends[index] && level.channels % level.heads !== 0) {
      throw config.invalid(headsKey, `a divisor of block_out_channels' ${level.channels}`)
    }
  })
  return {
    inChannels: config.integer('in_channels', 4),
    outChannels: config.integer('out_channels', 4),
    sampleSize: sampleSize(config),
    levels,
    midAttention,
    midHeads: heads[count - 1]!,
    midTransformerLayers: depths[count - 1]!,
    crossAttentionDim: crossAttentionDim(config, attends),
    linearProjection: config.boolean('use_linear_projection', false),
    upcastAttention: config.boolean('upcast_attention', false),
    normGroups,
    normEps: config.number('norm_eps', 1e-5),
    flipSinToCos: config.boolean('flip_sin_to_cos', true),
    freqShift: config.number('freq_shift', 0),
    downsamplePadding: config.integer('downsample_padding', 1, 0),
    ...addedConditions(config),
  }
}

/** What joins the time embedding. Left out where a model has none of it. */
function addedConditions(config: Config): Pick<UNetSpec, 'pooledWidth' | 'timeIdWidth' | 'guidanceWidth'> {
  const added: ReturnType<typeof addedConditions> = {}
  if (config.get('time_cond_proj_dim') != null) added.guidanceWidth = config.integer('time_cond_proj_dim', 0)
  const kind = config.get('addition_embed_type')
  config.ignore('addition_time_embed_dim', 'projection_class_embeddings_input_dim')
  if (kind == null) return added
  if (kind !== 'text_time') throw config.unsupported('addition_embed_type')
  const key = 'projection_class_embeddings_input_dim'
  if (config.get('addition_time_embed_dim') == null) throw config.invalid('addition_time_embed_dim', 'a whole number')
  const timeIdWidth = config.integer('addition_time_embed_dim', 0)
  // The sizes of the picture, of the crop and of the target, two numbers each.
  const pooledWidth = config.integer(key, 0, 0) - 6 * timeIdWidth
  if (pooledWidth < 1) throw config.invalid(key, `more than six times addition_time_embed_dim ${timeIdWidth}`)
  return { ...added, pooledWidth, timeIdWidth }
}

function blocks(config: Config, key: string, known: string[], fallback: string[]): string[] {
  const types = config.strings(key, fallback)
  if (types.length === 0) throw config.invalid(key, 'a list of at least one block')
  if (!types.every((type) => known.includes(type))) throw config.unsupported(key)
  return types
}

/** Keys whose only supported value is the one that changes nothing. */
function refuseOthers(config: Config): void {
  config.neutral('center_input_sample', false)
  config.neutral('mid_block_scale_factor', 1)
  config.neutral('act_fn', 'silu', 'swish')
  config.neutral('encoder_hid_dim')
  config.neutral('encoder_hid_dim_type')
  config.neutral('dual_cross_attention', false)
  config.neutral('class_embed_type')
  config.neutral('num_class_embeds')
  config.neutral('class_embeddings_concat', false)
  config.neutral('resnet_time_scale_shift', 'default')
  config.neutral('time_embedding_type', 'positional')
  config.neutral('time_embedding_act_fn')
  config.neutral('timestep_post_act')
  config.neutral('conv_in_kernel', 3)
  config.neutral('conv_out_kernel', 3)
  config.neutral('attention_type', 'default')
  if (config.get('norm_num_groups') === null) throw config.unsupported('norm_num_groups')
  const only = config.get('only_cross_attention')
  if (Array.isArray(only) ? only.includes(true) : only) throw config.unsupported('only_cross_attention')
  const width = config.get('time_embedding_dim')
  if (width != null && width !== 0 && width !== (config.integers('block_out_channels', [320])[0] ?? 0) * 4) {
    throw config.unsupported('time_embedding_dim')
  }
  // These speak to blocks and embeddings that are refused above, or to training.
  config.ignore('dropout', 'cross_attention_norm', 'resnet_skip_time_act', 'resnet_out_scale_factor')
  config.ignore('mid_block_only_cross_attention', 'addition_embed_type_num_heads')
}

function transformerLayers(config: Config, count: number, least: number): number[] {
  const key = 'transformer_layers_per_block'
  const given = config.get(key)
  if (Array.isArray(given) && given.some(Array.isArray)) throw config.unsupported(key)
  const depths = config.perLevel(key, count, 1, least, MAX_LAYERS)
  const reverse = config.get('reverse_transformer_layers_per_block')
  if (reverse != null && JSON.stringify(reverse) !== JSON.stringify([...depths].reverse())) {
    throw config.unsupported('reverse_transformer_layers_per_block')
  }
  return depths
}

function crossAttentionDim(config: Config, attends: boolean[]): number {
  const dims = config.perLevel('cross_attention_dim', attends.length, 1280)
  const used = new Set(attends.includes(true) ? dims.filter((_, level) => attends[level]) : dims)
  if (used.size !== 1) throw config.unsupported('cross_attention_dim')
  return [...used][0]!
}

function sampleSize(config: Config): number {
  const value = config.get('sample_size')
  if (Array.isArray(value)) {
    const [height, width] = config.integers('sample_size', [])
    if (value.length !== 2 || height === undefined || height !== width) throw config.unsupported('sample_size')
    return height
  }
  const size = config.integer('sample_size', 64)
  // The first files of Stable Diffusion 1.x say 32 and mean 64; diffusers reads them so by their version.
  const version = /^0\.(\d+)\./.exec(config.string('_diffusers_version', '1.0.0'))
  return version && Number(version[1]) < 9 && size < 64 ? 64 : size
}
