/** AutoencoderKL's config -> the VAE's spec. */
import type { VaeSpec } from '../native.ts'
import type { Config } from './json.ts'

/**
 * Resolves the keys that a file lacks as diffusers' constructor does.
 *
 * @throws SwapError `SWAP_MODEL_CONFIG`, `SWAP_MODEL_UNSUPPORTED`
 */
export function vaeSpec(config: Config): VaeSpec {
  const kind = config.string('_class_name', 'AutoencoderKL')
  if (kind !== 'AutoencoderKL') throw config.unsupported('_class_name', 'the VAE must be an AutoencoderKL')
  const channels = config.integers('block_out_channels', [64])
  for (const [key, block] of [
    ['down_block_types', 'DownEncoderBlock2D'],
    ['up_block_types', 'UpDecoderBlock2D'],
  ] as const) {
    const types = config.strings(key, [block])
    if (types.some((type) => type !== block)) throw config.unsupported(key)
    if (types.length !== channels.length) throw config.invalid(key, `a list of ${channels.length}`)
  }
  if (channels.length === 0 || channels.length > 16) throw config.invalid('block_out_channels', 'a list of 1 to 16')
  config.neutral('act_fn', 'silu', 'swish')
  config.neutral('latents_mean')
  config.neutral('latents_std')
  config.ignore('sample_size', 'force_upcast')
  const normGroups = config.integer('norm_num_groups', 32)
  for (const width of channels) {
    if (width % normGroups !== 0) throw config.invalid('norm_num_groups', `a divisor of block_out_channels' ${width}`)
  }
  return {
    inChannels: config.integer('in_channels', 3),
    outChannels: config.integer('out_channels', 3),
    latentChannels: config.integer('latent_channels', 4),
    channels,
    layers: config.integer('layers_per_block', 1, 1, 64),
    normGroups,
    midAttention: config.boolean('mid_block_add_attention', true),
    quantConv: config.boolean('use_quant_conv', true),
    postQuantConv: config.boolean('use_post_quant_conv', true),
    scalingFactor: config.number('scaling_factor', 0.18215),
    shiftFactor: config.number('shift_factor', 0),
  }
}
