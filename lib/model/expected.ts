/** The complete list of tensors that a spec asks for, so that wrong files are found before anything native. */
import type { ControlNetSpec, ModelSpec, TextEncoderSpec, UNetSpec, VaeSpec } from '../native.ts'

export type Shape = readonly number[]
/** Canonical name -> shape. */
export type TensorShapes = Map<string, Shape>

/** Adds layers under one prefix, in diffusers' terms. */
class Scope {
  readonly #shapes: TensorShapes
  readonly #prefix: string

  constructor(shapes: TensorShapes, prefix: string) {
    this.#shapes = shapes
    this.#prefix = prefix
  }

  in(name: string | number): Scope {
    return new Scope(this.#shapes, `${this.#prefix}${name}.`)
  }

  weight(name: string, shape: Shape): void {
    this.#shapes.set(`${this.#prefix}${name}.weight`, shape)
  }

  /** A weight `[out, in, ...rest]` and its bias. */
  layer(name: string, outputs: number, ...rest: number[]): void {
    this.weight(name, [outputs, ...rest])
    this.#shapes.set(`${this.#prefix}${name}.bias`, [outputs])
  }

  norm(name: string, width: number): void {
    this.layer(name, width)
  }

  conv(name: string, outputs: number, inputs: number, kernel = 3): void {
    this.layer(name, outputs, inputs, kernel, kernel)
  }
}

/**
 * True for a tensor that a whole file has and the engine never reads: of a text encoder's layers behind the state that
 * is used, where no pooled state comes from them.
 */
export function isUnread({ textEncoders }: ModelSpec, name: string): boolean {
  const [, index, layer] = /^text_encoder\.(\d+)\.(?:encoder\.layers\.(\d+)|final_layer_norm)\./.exec(name) ?? []
  const encoder = index === undefined ? undefined : textEncoders[Number(index)]
  if (!encoder || encoder.projectionDim > 0) return false
  return layer === undefined ? !encoder.finalNorm : Number(layer) >= encoder.layers - encoder.skipLayers
}

/** Every tensor of a model under its canonical name. */
export function expectedTensors(spec: ModelSpec): TensorShapes {
  const shapes: TensorShapes = new Map()
  const all = new Scope(shapes, '')
  spec.textEncoders.forEach((encoder, index) => {
    textEncoder(all.in('text_encoder').in(index), encoder)
  })
  unet(all.in('unet'), spec.unet)
  vae(all.in('vae'), spec.vae)
  return shapes
}

/** Every tensor of a ControlNet under its canonical name. */
export function expectedControl({ unet, imageChannels, imageWidths }: ControlNetSpec): TensorShapes {
  const shapes: TensorShapes = new Map()
  const at = new Scope(shapes, 'controlnet.')
  const base = unet.levels[0]!.channels
  downPath(at, unet)
  const picture = at.in('controlnet_cond_embedding')
  picture.conv('conv_in', imageWidths[0]!, imageChannels)
  imageWidths.slice(0, -1).forEach((width, index) => {
    picture.in('blocks').conv(`${2 * index}`, width, width)
    picture.in('blocks').conv(`${2 * index + 1}`, imageWidths[index + 1]!, width)
  })
  picture.conv('conv_out', base, imageWidths.at(-1)!)
  // One for each skip connection: behind the first convolution, each resnet and each downsampling.
  const skips = unet.levels.flatMap(({ channels, layers }, index) =>
    new Array<number>(layers + (index + 1 < unet.levels.length ? 1 : 0)).fill(channels),
  )
  for (const [index, width] of [base, ...skips].entries()) {
    at.in('controlnet_down_blocks').conv(`${index}`, width, width, 1)
  }
  const deepest = unet.levels.at(-1)!.channels
  at.conv('controlnet_mid_block', deepest, deepest, 1)
  return shapes
}

function textEncoder(at: Scope, spec: TextEncoderSpec): void {
  const { width, intermediate } = spec
  at.in('embeddings').weight('token_embedding', [spec.vocab, width])
  at.in('embeddings').weight('position_embedding', [spec.positions, width])
  for (let index = 0; index < spec.layers; index++) {
    const layer = at.in('encoder').in('layers').in(index)
    for (const name of ['q_proj', 'k_proj', 'v_proj', 'out_proj']) layer.in('self_attn').layer(name, width, width)
    layer.norm('layer_norm1', width)
    layer.norm('layer_norm2', width)
    layer.in('mlp').layer('fc1', intermediate, width)
    layer.in('mlp').layer('fc2', width, intermediate)
  }
  at.norm('final_layer_norm', width)
  if (spec.projectionDim > 0) at.weight('text_projection', [spec.projectionDim, width])
}

/** The first half of a U-Net: time embedding, way down, middle. */
function downPath(at: Scope, spec: UNetSpec): void {
  const { levels } = spec
  const time = levels[0]!.channels * 4
  const last = levels.length - 1
  at.conv('conv_in', levels[0]!.channels, spec.inChannels)
  at.in('time_embedding').layer('linear_1', time, levels[0]!.channels)
  at.in('time_embedding').layer('linear_2', time, time)
  if (spec.guidanceWidth) at.in('time_embedding').weight('cond_proj', [levels[0]!.channels, spec.guidanceWidth])
  if (spec.pooledWidth && spec.timeIdWidth) {
    at.in('add_embedding').layer('linear_1', time, spec.pooledWidth + 6 * spec.timeIdWidth)
    at.in('add_embedding').layer('linear_2', time, time)
  }

  levels.forEach((level, index) => {
    const block = at.in('down_blocks').in(index)
    for (let layer = 0; layer < level.layers; layer++) {
      const inputs = layer === 0 ? (levels[index - 1] ?? level).channels : level.channels
      resnet(block.in('resnets').in(layer), inputs, level.channels, time)
      if (level.downAttention) {
        transformer(block.in('attentions').in(layer), level.channels, level.transformerLayers, spec)
      }
    }
    if (index < last) block.in('downsamplers').in(0).conv('conv', level.channels, level.channels)
  })

  const middle = at.in('mid_block')
  const deepest = levels[last]!.channels
  resnet(middle.in('resnets').in(0), deepest, deepest, time)
  if (spec.midAttention) {
    transformer(middle.in('attentions').in(0), deepest, spec.midTransformerLayers, spec)
    resnet(middle.in('resnets').in(1), deepest, deepest, time)
  }
}

function unet(at: Scope, spec: UNetSpec): void {
  const { levels } = spec
  const time = levels[0]!.channels * 4
  const last = levels.length - 1
  downPath(at, spec)
  for (let index = 0; index <= last; index++) {
    const block = at.in('up_blocks').in(index)
    const level = levels[last - index]!
    const before = (levels[last - index + 1] ?? level).channels
    const finer = (levels[last - index - 1] ?? level).channels
    for (let layer = 0; layer <= level.layers; layer++) {
      // Each takes what the way down left: its own level's states, and last the input of that level.
      const skip = layer === level.layers ? finer : level.channels
      const inputs = (layer === 0 ? before : level.channels) + skip
      resnet(block.in('resnets').in(layer), inputs, level.channels, time)
      if (level.upAttention) {
        transformer(block.in('attentions').in(layer), level.channels, level.transformerLayers, spec)
      }
    }
    if (index < last) block.in('upsamplers').in(0).conv('conv', level.channels, level.channels)
  }
  at.norm('conv_norm_out', levels[0]!.channels)
  at.conv('conv_out', spec.outChannels, levels[0]!.channels)
}

/** `time` is the width of the time embedding; 0 where there is none. */
function resnet(at: Scope, inputs: number, outputs: number, time: number): void {
  at.norm('norm1', inputs)
  at.conv('conv1', outputs, inputs)
  if (time > 0) at.layer('time_emb_proj', outputs, time)
  at.norm('norm2', outputs)
  at.conv('conv2', outputs, outputs)
  if (inputs !== outputs) at.conv('conv_shortcut', outputs, inputs, 1)
}

function transformer(at: Scope, width: number, depth: number, spec: UNetSpec): void {
  const project = (name: string): void =>
    spec.linearProjection ? at.layer(name, width, width) : at.conv(name, width, width, 1)
  at.norm('norm', width)
  project('proj_in')
  for (let index = 0; index < depth; index++) {
    const block = at.in('transformer_blocks').in(index)
    for (const norm of ['norm1', 'norm2', 'norm3']) block.norm(norm, width)
    for (const [name, context] of [
      ['attn1', width],
      ['attn2', spec.crossAttentionDim],
    ] as const) {
      block.in(name).weight('to_q', [width, width])
      block.in(name).weight('to_k', [width, context])
      block.in(name).weight('to_v', [width, context])
      block.in(name).layer('to_out.0', width, width)
    }
    // GEGLU: half of the first layer's outputs gate the other half
    block.layer('ff.net.0.proj', width * 8, width)
    block.layer('ff.net.2', width, width * 4)
  }
  project('proj_out')
}

function vae(at: Scope, spec: VaeSpec): void {
  const { channels, latentChannels } = spec
  const last = channels.length - 1
  const deepest = channels[last]!
  const encoder = at.in('encoder')
  encoder.conv('conv_in', channels[0]!, spec.inChannels)
  channels.forEach((width, index) => {
    const block = encoder.in('down_blocks').in(index)
    for (let layer = 0; layer < spec.layers; layer++) {
      resnet(block.in('resnets').in(layer), layer === 0 ? (channels[index - 1] ?? width) : width, width, 0)
    }
    if (index < last) block.in('downsamplers').in(0).conv('conv', width, width)
  })
  vaeMiddle(encoder.in('mid_block'), deepest, spec.midAttention)
  encoder.norm('conv_norm_out', deepest)
  encoder.conv('conv_out', 2 * latentChannels, deepest)
  if (spec.quantConv) at.conv('quant_conv', 2 * latentChannels, 2 * latentChannels, 1)

  if (spec.postQuantConv) at.conv('post_quant_conv', latentChannels, latentChannels, 1)
  const decoder = at.in('decoder')
  decoder.conv('conv_in', deepest, latentChannels)
  vaeMiddle(decoder.in('mid_block'), deepest, spec.midAttention)
  for (let index = 0; index <= last; index++) {
    const block = decoder.in('up_blocks').in(index)
    const width = channels[last - index]!
    for (let layer = 0; layer <= spec.layers; layer++) {
      resnet(block.in('resnets').in(layer), layer === 0 ? (channels[last - index + 1] ?? width) : width, width, 0)
    }
    if (index < last) block.in('upsamplers').in(0).conv('conv', width, width)
  }
  decoder.norm('conv_norm_out', channels[0]!)
  decoder.conv('conv_out', spec.outChannels, channels[0]!)
}

function vaeMiddle(at: Scope, width: number, attention: boolean): void {
  resnet(at.in('resnets').in(0), width, width, 0)
  resnet(at.in('resnets').in(1), width, width, 0)
  if (!attention) return
  const block = at.in('attentions').in(0)
  block.norm('group_norm', width)
  for (const name of ['to_q', 'to_k', 'to_v', 'to_out.0']) block.layer(name, width, width)
}
