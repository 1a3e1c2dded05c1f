/** The names that Stable Diffusion's own program (LDM) and OpenCLIP gave what diffusers and transformers name otherwise. */
import type { UNetLevelSpec } from '../native.ts'

/** Where a tensor stands in a file of the older names. */
export interface LdmPlace {
  name: string
  /** One of three equal parts of its rows: q, k and v in one matrix. */
  third?: 0 | 1 | 2 | undefined
  /** The matrix lies column by column. */
  transposed?: boolean | undefined
}

/** How the text encoders of a file are named: as transformers does, or as OpenCLIP. */
export type TextNaming = 'clip' | 'openclip'

const RESNET: Record<string, string> = {
  norm1: 'in_layers.0',
  conv1: 'in_layers.2',
  time_emb_proj: 'emb_layers.1',
  norm2: 'out_layers.0',
  conv2: 'out_layers.3',
  conv_shortcut: 'skip_connection',
}

/** What the two ends of a U-Net are called. */
const ENDS: Record<string, string> = {
  conv_in: 'input_blocks.0.0',
  'time_embedding.linear_1': 'time_embed.0',
  'time_embedding.linear_2': 'time_embed.2',
  'add_embedding.linear_1': 'label_emb.0.0',
  'add_embedding.linear_2': 'label_emb.0.2',
  conv_norm_out: 'out.0',
  conv_out: 'out.2',
}

/**
 * diffusers' blocks of a U-Net, such as `down_blocks.1.attentions.0`, and LDM's, such as `input_blocks.4.1`.
 *
 * LDM counts through: a block a resnet (with its transformer) and a block a change of size on the way down; on the way
 * up the change of size closes the last block of its level.
 */
export function ldmBlocks(levels: readonly UNetLevelSpec[]): Map<string, string> {
  const blocks = new Map(Object.entries(ENDS))
  let input = 1
  levels.forEach((level, index) => {
    const here = `down_blocks.${index}`
    for (let layer = 0; layer < level.layers; layer++, input++) {
      blocks.set(`${here}.resnets.${layer}`, `input_blocks.${input}.0`)
      blocks.set(`${here}.attentions.${layer}`, `input_blocks.${input}.1`)
    }
    if (index < levels.length - 1) blocks.set(`${here}.downsamplers.0.conv`, `input_blocks.${input++}.0.op`)
  })
  blocks.set('mid_block.resnets.0', 'middle_block.0')
  blocks.set('mid_block.attentions.0', 'middle_block.1')
  blocks.set('mid_block.resnets.1', 'middle_block.2')
  let output = 0
  levels.toReversed().forEach((level, index) => {
    const here = `up_blocks.${index}`
    for (let layer = 0; layer <= level.layers; layer++, output++) {
      blocks.set(`${here}.resnets.${layer}`, `output_blocks.${output}.0`)
      blocks.set(`${here}.attentions.${layer}`, `output_blocks.${output}.1`)
    }
    const place = level.upAttention ? 2 : 1
    blocks.set(`${here}.upsamplers.0.conv`, `output_blocks.${output - 1}.${place}.conv`)
  })
  return blocks
}

/** LDM's name for diffusers' of a U-Net, both without prefix; undefined for what LDM does not have. */
export function ldmUnet(name: string, blocks: ReadonlyMap<string, string>): string | undefined {
  const [, block = '', rest = ''] =
    /^((?:down|up)_blocks\.\d+\.\w+\.\d+(?:\.conv)?|mid_block\.\w+\.\d+|time_embedding\.\w+|add_embedding\.\w+|\w+)\.(.+)$/.exec(
      name,
    ) ?? []
  const place = blocks.get(block)
  if (place === undefined) return undefined
  if (!block.includes('.resnets.')) return `${place}.${rest}`
  const [layer = '', ...kind] = rest.split('.')
  return Object.hasOwn(RESNET, layer) ? [place, RESNET[layer], ...kind].join('.') : undefined
}

const VAE_ATTENTION: Record<string, string> = {
  group_norm: 'norm',
  to_q: 'q',
  to_k: 'k',
  to_v: 'v',
  'to_out.0': 'proj_out',
}

/** LDM's name for diffusers' of a VAE of so many levels, both without prefix. */
export function ldmVae(name: string, levels: number): string {
  return name
    .replace(/\.down_blocks\.(\d+)\.resnets\.(\d+)\./, '.down.$1.block.$2.')
    .replace(/\.down_blocks\.(\d+)\.downsamplers\.0\./, '.down.$1.downsample.')
    .replace(/\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\./, (_, block: string, kind: string, layer: string) => {
      // LDM counts these from the finest level too.
      const up = `.up.${levels - 1 - Number(block)}.`
      return kind === 'resnets' ? `${up}block.${layer}.` : `${up}upsample.`
    })
    .replace(/\.mid_block\.resnets\.(\d)\./, (_, layer: string) => `.mid.block_${Number(layer) + 1}.`)
    .replace(
      /\.mid_block\.attentions\.0\.(group_norm|to_q|to_k|to_v|to_out\.0)\./,
      (_, part: string) => `.mid.attn_1.${VAE_ATTENTION[part]}.`,
    )
    .replace('.conv_shortcut.', '.nin_shortcut.')
    .replace('.conv_norm_out.', '.norm_out.')
}

const OPEN_CLIP: [string | RegExp, string][] = [
  ['embeddings.token_embedding.weight', 'token_embedding.weight'],
  ['embeddings.position_embedding.weight', 'positional_embedding'],
  ['final_layer_norm.', 'ln_final.'],
  ['encoder.layers.', 'transformer.resblocks.'],
  ['.layer_norm1.', '.ln_1.'],
  ['.layer_norm2.', '.ln_2.'],
  ['.mlp.fc1.', '.mlp.c_fc.'],
  ['.mlp.fc2.', '.mlp.c_proj.'],
  ['.self_attn.out_proj.', '.attn.out_proj.'],
  [/\.self_attn\.[qkv]_proj\.(weight|bias)$/, '.attn.in_proj_$1'],
]

/** Where a text encoder's tensor lies, by its name in transformers without `text_model.`. */
export function ldmText(name: string, naming: TextNaming): LdmPlace {
  if (naming === 'clip') return { name }
  if (name === 'text_projection.weight') return { name: 'text_projection', transposed: true }
  const older = OPEN_CLIP.reduce((text, [from, to]) => text.replace(from, to), name)
  const part = /\.self_attn\.([qkv])_proj\./.exec(name)?.[1]
  return { name: older, third: part === undefined ? undefined : (['q', 'k', 'v'].indexOf(part) as 0 | 1 | 2) }
}
