/** Files beside a model, made on purpose: LoRA for the embedded model, and the embedded model as a single file. */
import { readFileSync } from 'node:fs'
import { readModel } from '../../lib/model/index.ts'
import { ldmPlaces } from '../../lib/model/single_file.ts'
import { packageRoot } from '../../lib/paths.ts'
import { archive, global, named, text, tuple } from '../pickle/kit.ts'
import { safetensors } from './kit.ts'

export interface Part {
  dtype: string
  shape: number[]
  bytes: Uint8Array
}
export type Parts = Record<string, Part>

const product = (shape: number[]): number => shape.reduce((all, one) => all * one, 1)

/** A tensor of float32, of small numbers that are not all alike. */
export function floats(shape: number[], size = 0.05): Part {
  const values = Float32Array.from({ length: product(shape) }, (_, index) => size * Math.sin(1 + index * 1.7))
  return { dtype: 'F32', shape, bytes: new Uint8Array(values.buffer) }
}

/** The bytes of a safetensors file. */
export function pack(parts: Parts, metadata: Record<string, string> = {}): Buffer {
  let offset = 0
  const header: Record<string, unknown> = { __metadata__: metadata }
  for (const [name, { dtype, shape, bytes }] of Object.entries(parts)) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] }
    offset += bytes.length
  }
  return safetensors(header, Buffer.concat(Object.values(parts).map(({ bytes }) => bytes)))
}

/** A file of torch.save() whose pickle makes an empty file at `mark` where it is run. */
export function hostile(mark: string): Buffer {
  return archive(named(global('os', 'system'), ...tuple(text(`touch ${mark}`)), 'R'))
}

/** A layer of the embedded model's U-Net as kohya's programs name it; [64, 192]. */
export const LAYER = 'lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k'

/** A LoRA of that layer and one of the text encoder. */
export function loraParts(): Parts {
  const text = 'lora_te_text_model_encoder_layers_0_mlp_fc1'
  return {
    [`${LAYER}.lora_down.weight`]: floats([2, 192]),
    [`${LAYER}.lora_up.weight`]: floats([64, 2]),
    [`${LAYER}.alpha`]: floats([], 1),
    [`${text}.lora_down.weight`]: floats([2, 192]),
    [`${text}.lora_up.weight`]: floats([768, 2]),
  }
}

/** The embedded model with the names of Stable Diffusion's own program. */
export async function miniParts(): Promise<Parts> {
  const { spec, tensors } = await readModel(`${packageRoot()}/models/mini`)
  const place = ldmPlaces(spec, [{ prefix: 'cond_stage_model.transformer.text_model.', naming: 'clip' }])
  const files = new Map<string, Buffer>()
  const parts: Parts = {}
  for (const { name, dtype, shape, file, begin, end } of tensors) {
    const bytes = files.get(file) ?? readFileSync(file)
    files.set(file, bytes)
    const convolution = /\.attentions\.\d\.to_\w+(\.0)?\.weight$/.test(name) && name.startsWith('vae.')
    parts[place(name)!.name] = {
      dtype,
      shape: convolution ? [...shape, 1, 1] : shape,
      bytes: bytes.subarray(begin, end),
    }
  }
  return parts
}
