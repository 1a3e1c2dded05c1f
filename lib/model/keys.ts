/** This project's own names for a model's tensors, from whichever that diffusers and transformers wrote. */

/** The part of a pipeline that a file belongs to: its folder's name. */
export type ComponentKind = 'text_encoder' | 'text_encoder_2' | 'unet' | 'vae' | 'controlnet'

/** Older diffusers named the VAE's one attention after its 1x1 convolutions. */
const OLD_ATTENTION: Record<string, string> = { query: 'to_q', key: 'to_k', value: 'to_v', proj_attn: 'to_out.0' }

/** Tensors that files carry and nothing computes with. */
const BUFFERS = /(^|\.)(position_ids|num_batches_tracked)$/

/** Parts of a whole CLIP that a text encoder's file may bring along. */
const SILENT = /^(vision_model\.|visual_projection\.|logit_scale$|text_projection\.)/

/**
 * The canonical name and shape of a stored tensor; undefined for one that is known to mean nothing here.
 *
 * Weights of linear layers that were stored as 1x1 convolutions lose the two ones of their shape; the bytes are the same.
 */
export function canonical(
  component: ComponentKind,
  name: string,
  shape: readonly number[],
): { name: string; shape: number[] } | undefined {
  if (BUFFERS.test(name)) return undefined
  if (component === 'text_encoder' || component === 'text_encoder_2') {
    const index = component === 'text_encoder' ? 0 : 1
    return { name: `text_encoder.${index}.${name.replace(/^text_model\./, '')}`, shape: [...shape] }
  }
  if (component === 'unet' || component === 'controlnet') return { name: `${component}.${name}`, shape: [...shape] }
  const [, head, part, rest] =
    /^((?:encoder|decoder)\.mid_block\.attentions\.\d+\.)(\w+(?:\.0)?)\.(weight|bias)$/.exec(name) ?? []
  if (head === undefined || part === undefined || part === 'group_norm') {
    return { name: `vae.${name}`, shape: [...shape] }
  }
  const linear = rest === 'weight' && shape.length === 4 && shape[2] === 1 && shape[3] === 1
  const renamed = Object.hasOwn(OLD_ATTENTION, part) ? OLD_ATTENTION[part] : part
  return { name: `vae.${head}${renamed}.${rest}`, shape: linear ? shape.slice(0, 2) : [...shape] }
}

/** True for a tensor that is left over without being a sign of a wrong file. */
export function harmless(component: ComponentKind, name: string): boolean {
  return component.startsWith('text_encoder') && SILENT.test(name)
}
