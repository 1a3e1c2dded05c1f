/** The names of LoRA files: which weight a tensor is about, and which of its factors it is. */
import type { ModelSpec } from '../native.ts'
import type { TensorShapes } from './expected.ts'
import { ldmBlocks, ldmUnet } from './ldm.ts'

export type Role = 'down' | 'up' | 'middle' | 'alpha'

/** kohya's programs, PEFT and diffusers, and what diffusers wrote before it used PEFT. */
const ROLES: [RegExp, Role][] = [
  [/\.lora_down\.weight$/, 'down'],
  [/\.lora_up\.weight$/, 'up'],
  [/\.lora_mid\.weight$/, 'middle'],
  [/\.alpha$/, 'alpha'],
  [/\.lora_A(?:\.\w+)?\.weight$/, 'down'],
  [/\.lora_B(?:\.\w+)?\.weight$/, 'up'],
  [/(?:_lora|\.lora|\.lora_linear_layer)\.down\.weight$/, 'down'],
  [/(?:_lora|\.lora|\.lora_linear_layer)\.up\.weight$/, 'up'],
]

/** What is trained like a LoRA and is something else, by a word of its names. */
const OTHERS: [RegExp, string][] = [
  [/\.(dora_scale|lora_magnitude_vector(\.\w+)?(\.weight)?)$/, 'DoRA'],
  [/\.hada_\w+$/, 'LoHa'],
  [/\.lokr_\w+$/, 'LoKr'],
  [/\.(oft_blocks|oft_diag|oft_[rR](\.\w+)?(\.weight)?)$/, 'OFT'],
  [/\.(on_input|lora_ia3\w*|ia3_l(\.\w+)?)$/, 'IA3'],
  [/\.([ab][12]\.weight|glora_\w+)$/, 'GLoRA'],
  [/\.(diff|diff_b|set_weight)$/, 'a difference of whole weights'],
  [/\.lora_[AB](?:\.\w+)?\.bias$|\.lora_(down|up)\.bias$/, 'a LoRA with biases'],
  [/\.lora_embedding_[AB]\b/, 'a LoRA of embeddings'],
]

/** The kind of adapter that a tensor belongs to, where it is no plain LoRA. */
export function otherKind(name: string): string | undefined {
  return OTHERS.find(([pattern]) => pattern.test(name))?.[1]
}

/** The part of a name that says what it is about, and the role; undefined for a tensor that is none of a LoRA. */
export function splitName(name: string): { module: string; role: Role } | undefined {
  for (const [pattern, role] of ROLES) {
    const at = name.search(pattern)
    if (at <= 0) continue
    const underscore = name[at] === '_' ? '_lora' : ''
    return { module: name.slice(0, at) + underscore, role }
  }
  return undefined
}

/** Finds the weights of one model by the names that LoRA files have for them. */
export class LoraTargets {
  readonly #shapes: TensorShapes
  /** kohya's names: every dot an underscore. */
  readonly #flat = new Map<string, string>()

  constructor(spec: ModelSpec, shapes: TensorShapes) {
    this.#shapes = shapes
    const blocks = ldmBlocks(spec.unet.levels)
    const flat = (prefix: string, name: string, target: string): void =>
      void this.#flat.set(prefix + name.replaceAll('.', '_'), target)
    for (const [target, shape] of shapes) {
      if (shape.length < 2 || !target.endsWith('.weight')) continue
      const module = target.slice(0, -'.weight'.length)
      const [, index, text] = /^text_encoder\.(\d)\.(.+)$/.exec(module) ?? []
      if (text !== undefined) {
        const prefixes = index === '0' ? ['lora_te_', 'lora_te1_'] : ['lora_te2_']
        for (const prefix of prefixes) {
          flat(`${prefix}text_model_`, text, target)
          flat(prefix, text, target)
        }
      } else if (module.startsWith('unet.')) {
        const name = module.slice('unet.'.length)
        flat('lora_unet_', name, target)
        const older = ldmUnet(target.slice('unet.'.length), blocks)
        if (older !== undefined) flat('lora_unet_', older.slice(0, -'.weight'.length), target)
      }
    }
  }

  /** The canonical name of the weight that `module` names; undefined: the model has none such. */
  find(module: string): string | undefined {
    const flat = this.#flat.get(module)
    if (flat !== undefined) return flat
    const target = `${canonicalModule(module)}.weight`
    const shape = target.startsWith('vae.') ? undefined : this.#shapes.get(target)
    return shape !== undefined && shape.length >= 2 ? target : undefined
  }
}

/** diffusers' names, newer and older, become this project's. */
function canonicalModule(module: string): string {
  const plain = module
    .replace(/^base_model\.model\./, '')
    // attn1.processor.to_q_lora -> attn1.to_q
    .replace(/\.processor\.to_(q|k|v)_lora$/, '.to_$1')
    .replace(/\.processor\.to_out_lora$/, '.to_out.0')
    .replace(/\.self_attn\.to_(q|k|v)_lora$/, '.self_attn.$1_proj')
    .replace(/\.self_attn\.to_out_lora$/, '.self_attn.out_proj')
    .replace(/\.to_out$/, '.to_out.0')
  const text = /^text_encoder(?:_(\d))?\.(?:text_model\.)?(.+)$/.exec(plain)
  if (text) return `text_encoder.${Number(text[1] ?? 1) - 1}.${text[2]}`
  return plain.startsWith('unet.') ? plain : `unet.${plain}`
}
