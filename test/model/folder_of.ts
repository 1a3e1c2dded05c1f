/** Small diffusers folders for the tests, with every tensor that their configs ask for. */
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expectedTensors } from '../../lib/model/expected.ts'
import { Config, jsonObject } from '../../lib/model/json.ts'
import { noiseSpec } from '../../lib/model/scheduler.ts'
import { textEncoderSpec } from '../../lib/model/text_encoder.ts'
import { unetSpec } from '../../lib/model/unet.ts'
import { vaeSpec } from '../../lib/model/vae.ts'
import type { ModelSpec, NativeTensor } from '../../lib/native.ts'

export type Keys = Record<string, unknown>

export const UNET: Keys = {
  _class_name: 'UNet2DConditionModel',
  block_out_channels: [8, 16],
  down_block_types: ['CrossAttnDownBlock2D', 'DownBlock2D'],
  up_block_types: ['UpBlock2D', 'CrossAttnUpBlock2D'],
  layers_per_block: 1,
  attention_head_dim: 2,
  norm_num_groups: 4,
  cross_attention_dim: 12,
  sample_size: 8,
}

export const VAE: Keys = {
  _class_name: 'AutoencoderKL',
  block_out_channels: [4, 8],
  down_block_types: ['DownEncoderBlock2D', 'DownEncoderBlock2D'],
  up_block_types: ['UpDecoderBlock2D', 'UpDecoderBlock2D'],
  norm_num_groups: 4,
}

export const TEXT: Keys = {
  architectures: ['CLIPTextModel'],
  model_type: 'clip_text_model',
  hidden_size: 12,
  intermediate_size: 24,
  num_attention_heads: 3,
  num_hidden_layers: 2,
  vocab_size: 8,
}

export const SCHEDULER: Keys = { _class_name: 'PNDMScheduler', skip_prk_steps: true, steps_offset: 1 }

const INDEX: Keys = {
  _class_name: 'StableDiffusionPipeline',
  scheduler: ['diffusers', 'PNDMScheduler'],
  text_encoder: ['transformers', 'CLIPTextModel'],
  tokenizer: ['transformers', 'CLIPTokenizer'],
  unet: ['diffusers', 'UNet2DConditionModel'],
  vae: ['diffusers', 'AutoencoderKL'],
  safety_checker: [null, null],
}

const VOCAB = { a: 0, b: 1, 'a</w>': 2, 'b</w>': 3, '<|startoftext|>': 4, '<|endoftext|>': 5 }

export const config = (keys: Keys, file = 'config.json'): Config => new Config(file, jsonObject(keys)!)

export function specOf(unet: Keys, vae: Keys, text: Keys): ModelSpec {
  return {
    textEncoders: [textEncoderSpec(config(text))],
    unet: unetSpec(config(unet)),
    vae: vaeSpec(config(vae)),
    noise: noiseSpec({ className: 'DDIMScheduler', config: {} }),
  }
}

/** The tensors of one component under the names that its folder has; the values tell them apart. */
export function tensorsOf(component: 'unet' | 'vae' | 'text_encoder'): NativeTensor[] {
  const prefix = component === 'text_encoder' ? 'text_encoder.0.' : `${component}.`
  return [...expectedTensors(specOf(UNET, VAE, TEXT))]
    .filter(([name]) => name.startsWith(prefix))
    .map(([name, shape], index) => ({
      name: name.slice(prefix.length),
      shape: [...shape],
      data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => index + i / 1024),
    }))
}

/** One entry of a safetensors header with its bytes. */
export interface RawTensor {
  name: string
  dtype: string
  shape: number[]
  bytes: Uint8Array
}

/** A safetensors file with any kinds, for what the package itself never writes. */
export function rawSafetensors(tensors: RawTensor[], metadata?: Record<string, string>): Uint8Array {
  let offset = 0
  const entries: [string, unknown][] = metadata ? [['__metadata__', metadata]] : []
  for (const { name, dtype, shape, bytes } of tensors) {
    entries.push([name, { dtype, shape, data_offsets: [offset, offset + bytes.length] }])
    offset += bytes.length
  }
  return assembled(JSON.stringify(Object.fromEntries(entries)), Buffer.concat(tensors.map(({ bytes }) => bytes)))
}

/** A header as given, its length before it and bytes after it. */
export function assembled(header: string, bytes: Uint8Array = new Uint8Array()): Uint8Array {
  const text = Buffer.from(header)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([length, text, bytes])
}

/** Writes a folder; a file given as null is left out, one given as bytes or text replaces what would be there. */
export function writeFolder(files: Record<string, Uint8Array | string | null>): string {
  const path = mkdtempSync(join(tmpdir(), 'swap-model-'))
  for (const [name, data] of Object.entries(files)) {
    if (data === null) continue
    const file = join(path, name)
    mkdirSync(join(file, '..'), { recursive: true })
    writeFileSync(file, data)
  }
  return path
}

/** The files of a whole small model. */
export function modelFiles(
  tensors: (component: 'unet' | 'vae' | 'text_encoder') => Uint8Array,
): Record<string, Uint8Array | string | null> {
  return {
    'model_index.json': JSON.stringify(INDEX),
    'scheduler/scheduler_config.json': JSON.stringify(SCHEDULER),
    'tokenizer/vocab.json': JSON.stringify(VOCAB),
    'tokenizer/merges.txt': '#version: 0.2\n',
    'unet/config.json': JSON.stringify(UNET),
    'unet/diffusion_pytorch_model.safetensors': tensors('unet'),
    'vae/config.json': JSON.stringify(VAE),
    'vae/diffusion_pytorch_model.safetensors': tensors('vae'),
    'text_encoder/config.json': JSON.stringify(TEXT),
    'text_encoder/model.safetensors': tensors('text_encoder'),
  }
}
