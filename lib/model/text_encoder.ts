/** CLIPTextModel's config -> a text encoder's spec. */
import type { TextEncoderSpec } from '../native.ts'
import { Config, jsonObject } from './json.ts'

/** Keys that speak of training, of saving, or of tokens that only the tokenizer uses. */
const SILENT = [
  'architectures',
  'attention_dropout',
  'dropout',
  'bos_token_id',
  'pad_token_id',
  'dtype',
  'torch_dtype',
  'gradient_checkpointing',
  'initializer_factor',
  'initializer_range',
  'model_type',
  'projection_dim',
  'transformers_version',
  '_name_or_path',
  '_commit_hash',
]

/**
 * Resolves the keys that a file lacks as transformers' `CLIPTextConfig` does.
 *
 * A diffusers folder of Stable Diffusion 2.x has its text encoder cut already, so it is the last state, with the final
 * norm, that conditions the U-Net. In SDXL it is the one before the last, without the norm; and the second encoder's
 * pooled state, which comes from the last, conditions it too.
 *
 * @param role `'only'`, or which of SDXL's two
 * @throws SwapError `SWAP_MODEL_CONFIG`, `SWAP_MODEL_UNSUPPORTED`
 */
export function textEncoderSpec(file: Config, role: 'only' | 'first' | 'second' = 'only'): TextEncoderSpec {
  const config = ofText(file)
  config.ignore(...SILENT)
  const classes = file.has('architectures') ? file.strings('architectures', []) : []
  const width = config.integer('hidden_size', 512)
  const heads = config.integer('num_attention_heads', 8)
  if (width % heads !== 0) throw config.invalid('num_attention_heads', `a divisor of hidden_size ${width}`)
  const activation = config.string('hidden_act', 'quick_gelu')
  if (activation !== 'quick_gelu' && activation !== 'gelu') throw config.unsupported('hidden_act')
  const vocab = config.integer('vocab_size', 49408)
  const layers = config.integer('num_hidden_layers', 12, 1, 256)
  const projects = role === 'only' ? classes.includes('CLIPTextModelWithProjection') : role === 'second'
  const eos = config.get('eos_token_id')
  return {
    vocab,
    width,
    layers,
    heads,
    intermediate: config.integer('intermediate_size', 2048),
    positions: config.integer('max_position_embeddings', 77),
    activation,
    normEps: config.number('layer_norm_eps', 1e-5),
    skipLayers: role === 'only' ? 0 : 1,
    finalNorm: role === 'only',
    projectionDim: projects ? config.integer('projection_dim', 512) : 0,
    // Files from before transformers knew better say 2, and mean the highest id.
    eos: Number.isSafeInteger(eos) && eos !== 2 && Number(eos) >= 0 && Number(eos) < vocab ? Number(eos) : vocab - 1,
  }
}

/** The text part where the config is a whole CLIP's; refuses encoders that are not CLIP's. */
function ofText(file: Config): Config {
  const kind = file.get('model_type')
  if (kind === 'clip') {
    const text = jsonObject(file.get('text_config'))
    if (text) return new Config(file.file, text)
  }
  if (kind != null && kind !== 'clip_text_model' && kind !== 'clip') {
    throw file.unsupported('model_type', 'the text encoder must be CLIP')
  }
  return file
}
