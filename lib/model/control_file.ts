/** A ControlNet in a file of its own: diffusers' names or those of the original program, and no config. */
import { SwapError } from '../errors.ts'
import type { ControlNetSpec, UNetLevelSpec, UNetSpec } from '../native.ts'
import { expectedControl } from './expected.ts'
import { ldmBlocks, ldmUnet } from './ldm.ts'
import type { HeaderTensor } from './safetensors.ts'

/** Far above any ControlNet, and low enough that a hostile file costs nothing. */
const MAX_COUNT = 64

/** What the names of other things look like that are shared as ControlNets are. */
const OTHERS: [RegExp, string][] = [
  [/^(lora_controlnet$|.*\.(lora_)?(up|down)(\.weight)?$)/, 'a LoRA of a ControlNet'],
  [/^(task_embedding|control_add_embedding|transformer_layes|transformer_layers)\b/, 'a union of ControlNets'],
  [/^(adapter\.|body\.\d)/, 'a T2I adapter'],
  [/^up_blocks\./, 'a U-Net'],
  [/^(double_blocks|transformer_blocks|joint_blocks|single_transformer_blocks|pos_embed)\./, 'of another architecture'],
  [/^(model\.diffusion_model|first_stage_model)\./, 'a checkpoint without a ControlNet in it'],
]

/**
 * What a file's tensors say of a ControlNet, and the tensors under diffusers' names. Heads, norms and the like are not
 * in the tensors: they are the base model's.
 *
 * @throws SwapError `SWAP_MODEL_UNSUPPORTED` for a file of something else, `SWAP_MODEL_TENSOR_…` for half of one
 */
export function controlOf(
  path: string,
  tensors: readonly HeaderTensor[],
  base: UNetSpec,
): { spec: ControlNetSpec; tensors: HeaderTensor[] } {
  const prefix = tensors.some(({ name }) => name.startsWith('control_model.')) ? 'control_model.' : ''
  const own = tensors.filter(({ name }) => name.startsWith(prefix))
  const stored = new Map(own.map((tensor) => [tensor.name.slice(prefix.length), tensor]))
  const older = stored.has('input_hint_block.0.weight')
  if (!older && !stored.has('controlnet_cond_embedding.conv_in.weight')) {
    const [, other] = OTHERS.find(([pattern]) => tensors.some(({ name }) => pattern.test(name))) ?? []
    throw new SwapError('SWAP_MODEL_UNSUPPORTED', `"${path}" is no ControlNet${other ? `, but ${other}` : ''}`, {
      hint: 'give a ControlNet for Stable Diffusion 1.x, 2.x or XL',
    })
  }
  const names = new Names(path, stored, older)
  const spec = specOf(names, base)
  if (!older) return { spec, tensors: [...stored].map(([name, tensor]) => ({ ...tensor, name })) }
  const named = new Map(
    [...expectedControl(spec).keys()]
      .map((name) => name.slice('controlnet.'.length))
      .map((name) => [names.stored(name), name]),
  )
  return {
    spec,
    tensors: [...stored].map(([name, tensor]) => ({ ...tensor, name: named.get(name) ?? name })),
  }
}

/** Shapes by diffusers' names, whichever a file has. */
class Names {
  readonly path: string
  readonly #stored: ReadonlyMap<string, HeaderTensor>
  readonly #older: boolean
  /** Layers of each level. */
  readonly layers: number[]
  readonly #blocks: ReadonlyMap<string, string>
  /** Convolutions of the picture's embedding between the first and the last. */
  readonly pictureBlocks: number

  constructor(path: string, stored: ReadonlyMap<string, HeaderTensor>, older: boolean) {
    this.path = path
    this.#stored = stored
    this.#older = older
    this.layers = older ? this.#olderLayers() : this.#layers()
    if (this.layers.length === 0 || this.layers.includes(0)) throw this.missing('the first level')
    this.#blocks = ldmBlocks(this.layers.map((layers) => ({ ...LEVEL, layers })))
    this.pictureBlocks = older
      ? count((k) => stored.has(`input_hint_block.${2 * k + 2}.weight`)) - 1
      : count((k) => stored.has(`controlnet_cond_embedding.blocks.${k}.weight`))
  }

  #layers(): number[] {
    const has = (level: number, layer: number): boolean =>
      this.#stored.has(`down_blocks.${level}.resnets.${layer}.conv1.weight`)
    return Array.from({ length: count((level) => has(level, 0)) }, (_, level) => count((layer) => has(level, layer)))
  }

  /** The blocks are counted through; one that changes the size ends a level. */
  #olderLayers(): number[] {
    const layers = [0]
    for (let block = 1; layers.length <= MAX_COUNT && layers.at(-1)! <= MAX_COUNT; block++) {
      if (this.#stored.has(`input_blocks.${block}.0.op.weight`)) layers.push(0)
      else if (this.#stored.has(`input_blocks.${block}.0.in_layers.2.weight`)) layers[layers.length - 1]!++
      else break
    }
    return layers
  }

  /** The file's name for diffusers' name. */
  stored(name: string): string {
    if (!this.#older) return name
    const [, kind, rest] = /^(controlnet_\w+)\.(.+)$/.exec(name) ?? []
    if (kind === undefined || rest === undefined) return ldmUnet(name, this.#blocks) ?? name
    if (kind === 'controlnet_mid_block') return `middle_block_out.0.${rest}`
    const [first, second = '', third] = rest.split('.')
    if (kind === 'controlnet_down_blocks') return `zero_convs.${first}.0.${second}`
    // Between two convolutions is an activation, which counts too.
    if (first === 'conv_in') return `input_hint_block.0.${second}`
    if (first === 'conv_out') return `input_hint_block.${2 * this.pictureBlocks + 2}.${second}`
    return `input_hint_block.${2 * Number(second) + 2}.${third}`
  }

  shape(name: string): number[] | undefined {
    return this.#stored.get(this.stored(name))?.shape
  }

  /** A number of a shape that must be there. */
  size(name: string, axis: number): number {
    const size = this.shape(name)?.[axis]
    if (size === undefined || size < 1) throw this.missing(this.stored(name))
    return size
  }

  missing(what: string): SwapError {
    return new SwapError('SWAP_MODEL_TENSOR_MISSING', `"${this.path}" lacks ${what}`, {
      hint: 'the file is incomplete; get it again',
    })
  }
}

const LEVEL: UNetLevelSpec = {
  channels: 0,
  layers: 0,
  heads: 1,
  transformerLayers: 0,
  downAttention: false,
  upAttention: false,
}

function count(has: (index: number) => boolean): number {
  let found = 0
  while (found <= MAX_COUNT && has(found)) found++
  return found
}

function specOf(names: Names, base: UNetSpec): ControlNetSpec {
  const depth = (attention: string): number =>
    count((layer) => names.shape(`${attention}.transformer_blocks.${layer}.norm1.weight`) !== undefined)
  const levels = names.layers.map((layers, level): UNetLevelSpec => {
    const attention = `down_blocks.${level}.attentions.0`
    const downAttention = names.shape(`${attention}.norm.weight`) !== undefined
    return {
      channels: names.size(`down_blocks.${level}.resnets.0.conv1.weight`, 0),
      layers,
      heads: base.levels[level]?.heads ?? 1,
      transformerLayers: downAttention ? depth(attention) : 1,
      downAttention,
      upAttention: false,
    }
  })
  const middle = 'mid_block.attentions.0'
  const midAttention = names.shape(`${middle}.norm.weight`) !== undefined
  const attentions = [
    ...levels.flatMap(({ downAttention }, level) => (downAttention ? [`down_blocks.${level}.attentions.0`] : [])),
    ...(midAttention ? [middle] : []),
  ]
  const [first] = attentions
  const [deep] = attentions.filter((attention) => depth(attention) > 0)
  const added = names.shape('add_embedding.linear_1.weight')?.[1]
  return {
    unet: {
      ...base,
      inChannels: names.size('conv_in.weight', 1),
      levels,
      midAttention,
      midTransformerLayers: midAttention ? depth(middle) : 1,
      crossAttentionDim:
        deep === undefined ? base.crossAttentionDim : names.size(`${deep}.transformer_blocks.0.attn2.to_k.weight`, 1),
      linearProjection:
        first === undefined ? base.linearProjection : names.shape(`${first}.proj_in.weight`)?.length === 2,
      pooledWidth: added === undefined ? 0 : added - 6 * (base.timeIdWidth ?? 256),
      guidanceWidth: 0,
    },
    imageChannels: names.size('controlnet_cond_embedding.conv_in.weight', 1),
    imageWidths: [
      names.size('controlnet_cond_embedding.conv_in.weight', 0),
      ...Array.from({ length: names.pictureBlocks >> 1 }, (_, k) =>
        names.size(`controlnet_cond_embedding.blocks.${2 * k + 1}.weight`, 0),
      ),
    ],
  }
}
