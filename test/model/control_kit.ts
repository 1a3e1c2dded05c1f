/** ControlNets for any model: specs, configs, tensors, files. */
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expectedControl } from '../../lib/model/expected.ts'
import type { ControlNetSpec, ModelSpec, NativeTensor, UNetSpec } from '../../lib/native.ts'

/** The ControlNet that would be trained for a model. */
export function controlSpecFor({ unet, vae }: ModelSpec, change: Partial<UNetSpec> = {}): ControlNetSpec {
  return {
    unet: { ...unet, ...change },
    imageChannels: 3,
    imageWidths: Array.from({ length: vae.channels.length }, (_, level) => 4 * (level + 1)),
  }
}

/** diffusers' config of a spec. */
export function controlConfig({ unet, imageChannels, imageWidths }: ControlNetSpec): Record<string, unknown> {
  const { levels } = unet
  return {
    _class_name: 'ControlNetModel',
    _diffusers_version: '0.42.1',
    act_fn: 'silu',
    attention_head_dim: levels.map(({ heads }) => heads),
    block_out_channels: levels.map(({ channels }) => channels),
    conditioning_channels: imageChannels,
    conditioning_embedding_out_channels: imageWidths,
    controlnet_conditioning_channel_order: 'rgb',
    cross_attention_dim: unet.crossAttentionDim,
    down_block_types: levels.map(({ downAttention }) => (downAttention ? 'CrossAttnDownBlock2D' : 'DownBlock2D')),
    downsample_padding: unet.downsamplePadding,
    flip_sin_to_cos: unet.flipSinToCos,
    freq_shift: unet.freqShift,
    global_pool_conditions: false,
    in_channels: unet.inChannels,
    layers_per_block: levels[0]!.layers,
    mid_block_type: unet.midAttention ? 'UNetMidBlock2DCrossAttn' : 'UNetMidBlock2D',
    norm_eps: unet.normEps,
    norm_num_groups: unet.normGroups,
    transformer_layers_per_block: levels.map(({ transformerLayers }) => transformerLayers),
    upcast_attention: unet.upcastAttention,
    use_linear_projection: unet.linearProjection,
  }
}

/** Its tensors under diffusers' names: norms of one, matrices that keep the variance. */
export function controlTensors(spec: ControlNetSpec): NativeTensor[] {
  let state = 1
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 31 - 1
  }
  return [...expectedControl(spec)].map(([name, shape]) => {
    const length = shape.reduce((a, b) => a * b, 1)
    const fan = length / shape[0]!
    const norm = /norm\d?\.weight$/.test(name)
    const data = Float32Array.from({ length }, () =>
      norm ? 1 : random() * (shape.length > 1 ? Math.sqrt(3 / fan) : 0.1),
    )
    return { name: name.slice('controlnet.'.length), shape: [...shape], data }
  })
}

/** A file of zeros that take no room on the disk. */
function zeros(path: string, spec: ControlNetSpec): void {
  let end = 0
  const entries = [...expectedControl(spec)].map(([name, shape]) => {
    const begin = end
    end += 4 * shape.reduce((a, b) => a * b, 1)
    return [name.slice('controlnet.'.length), { dtype: 'F32', shape, data_offsets: [begin, end] }]
  })
  const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  writeFileSync(path, Buffer.concat([length, header]))
  truncateSync(path, 8 + header.length + end)
}

export interface ControlFiles {
  /** Other values for some keys. */
  config?: Record<string, unknown>
}

/** Writes one of zeros as a diffusers folder. */
export function writeControl(folder: string, spec: ControlNetSpec, { config = {} }: ControlFiles = {}): string {
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...controlConfig(spec), ...config }))
  zeros(join(folder, 'diffusion_pytorch_model.safetensors'), spec)
  return folder
}
