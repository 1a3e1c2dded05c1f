/** Which files of a repository are a model that can be opened: no weights twice, no pickles, no pictures. */
import { posix } from 'node:path'
import { SwapError } from '../errors.ts'
import { jsonObject, show } from '../model/json.ts'

/** Files of a repository, on the hub or in the cache. */
export interface Listing {
  /** `owner/name` */
  id: string
  has(path: string): boolean
  /** All paths of a folder, without those of its folders; `''` is the top. */
  names(folder: string): string[]
  /** A JSON object. */
  json(path: string): Promise<ReadonlyMap<string, unknown>>
}

/** Which weights to take where there are both; the other where there is one only. */
export type Variant = 'fp16' | 'full'

const TOKENIZER_FILES = [
  'tokenizer.json',
  'vocab.json',
  'merges.txt',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
]
const WEIGHTS: Record<string, string> = {
  unet: 'diffusion_pytorch_model',
  vae: 'diffusion_pytorch_model',
  text_encoder: 'model',
  text_encoder_2: 'model',
}

/**
 * The paths that are needed, the small ones first.
 *
 * A pipeline (model_index.json) is its U-Net, VAE, text encoders, tokenizers and scheduler; a repository of one part
 * alone (config.json at the top, such as a ControlNet) its config and weights.
 *
 * @throws SwapError `SWAP_HUB_LAYOUT` where something is missing, `SWAP_MODEL_PICKLE` where weights are pickles only
 */
export async function planFiles(listing: Listing, variant: Variant): Promise<string[]> {
  if (!listing.has('model_index.json')) {
    if (!listing.has('config.json')) throw noLayout(listing)
    return ['config.json', ...(await weights(listing, '', 'diffusion_pytorch_model', variant))]
  }
  const index = await listing.json('model_index.json')
  const present = (part: string): boolean => {
    const value = index.get(part)
    return Array.isArray(value) && value[1] != null
  }
  if (!present('unet')) throw missing(listing, 'a "unet" in model_index.json: it is no Stable Diffusion model')
  const small = ['model_index.json']
  const large: string[] = []
  if (listing.has('swap.json')) small.push('swap.json')
  const need = (path: string): void => {
    if (!listing.has(path)) throw missing(listing, path)
    small.push(path)
  }
  for (const [part, stem] of Object.entries(WEIGHTS)) {
    if (!present(part)) continue
    need(`${part}/config.json`)
    large.push(...(await weights(listing, part, stem, variant)))
  }
  for (const part of ['tokenizer', 'tokenizer_2']) {
    if (!present(part)) continue
    const found = TOKENIZER_FILES.filter((name) => listing.has(`${part}/${name}`))
    if (!found.includes('tokenizer.json') && !(found.includes('vocab.json') && found.includes('merges.txt'))) {
      throw missing(listing, `${part}/vocab.json and ${part}/merges.txt`)
    }
    small.push(...found.map((name) => `${part}/${name}`))
  }
  if (present('scheduler')) need('scheduler/scheduler_config.json')
  const json = (path: string): boolean => path.endsWith('.json')
  return [...small, ...large.filter(json), ...large.filter((path) => !json(path))]
}

/** One file, or an index and its shards. */
async function weights(listing: Listing, folder: string, stem: string, variant: Variant): Promise<string[]> {
  const order = variant === 'fp16' ? ['.fp16', ''] : ['', '.fp16']
  for (const mark of order) {
    const single = posix.join(folder, `${stem}${mark}.safetensors`)
    if (listing.has(single)) return [single]
    for (const name of [`${stem}.safetensors.index${mark}.json`, `${stem}${mark}.safetensors.index.json`]) {
      const index = posix.join(folder, name)
      if (listing.has(index)) return [index, ...(await shards(listing, folder, index))]
    }
  }
  if (listing.names(folder).some((name) => /\.(bin|ckpt|pt|pth|msgpack|h5)$/.test(name))) {
    throw new SwapError('SWAP_MODEL_PICKLE', `the weights in ${where(listing, folder)} are pickles only`, {
      hint: 'choose a model with .safetensors files; many have them on another branch or in a newer repository',
    })
  }
  throw missing(listing, posix.join(folder, `${stem}.safetensors`))
}

async function shards(listing: Listing, folder: string, index: string): Promise<string[]> {
  const map = jsonObject((await listing.json(index)).get('weight_map'))
  if (!map || map.size === 0) throw missing(listing, `a "weight_map" in ${index}`)
  const names = new Set(map.values())
  return [...names].map((name) => {
    // Beside its index, as where the folder is read.
    if (typeof name !== 'string' || !/^[^/\\:\0]+\.safetensors$/.test(name) || name.startsWith('.')) {
      throw new SwapError('SWAP_MODEL_SHARD', `${where(listing, index)} names the file ${show(name)}`, {
        hint: 'a shard must be a .safetensors file in the same folder',
      })
    }
    const path = posix.join(folder, name)
    if (!listing.has(path)) throw missing(listing, path)
    return path
  })
}

function where({ id }: Listing, path: string): string {
  return path === '' ? id : `${id}/${path}`
}

function missing({ id }: Listing, what: string): SwapError {
  return new SwapError('SWAP_HUB_LAYOUT', `${id} has not ${what}`, {
    hint: 'the repository must be a whole model in the diffusers layout',
  })
}

function noLayout(listing: Listing): SwapError {
  const single = listing.names('').filter((name) => /\.(safetensors|ckpt)$/.test(name))
  return new SwapError('SWAP_HUB_LAYOUT', `${listing.id} has no model_index.json: it is not in the diffusers layout`, {
    hint:
      single.length === 0
        ? 'choose a repository of a Stable Diffusion model in the diffusers layout'
        : `it has ${single.slice(0, 3).map(show).join(', ')}: download the one that you want and give its path`,
  })
}
