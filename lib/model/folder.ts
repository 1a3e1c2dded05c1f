/** A diffusers folder: which file holds what. */
import { readdir, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { SwapError } from '../errors.ts'
import { packageRoot } from '../paths.ts'
import { type Config, exists, readConfig, show } from './json.ts'
import type { ComponentKind } from './keys.ts'
import { type HeaderTensor, readHeader } from './safetensors.ts'

/** Where a model lies: `'mini'` is the one that comes with the package. */
export function modelPath(model: string): string {
  return model === 'mini' ? join(packageRoot(), 'models', 'mini') : resolve(model)
}

/**
 * Checks that `path` is a diffusers folder of a supported pipeline and returns its model_index.json.
 *
 * @throws SwapError `SWAP_MODEL_NOT_FOUND`, `SWAP_MODEL_NOT_A_FOLDER`, `SWAP_MODEL_LAYOUT`, `SWAP_MODEL_UNSUPPORTED`
 */
export async function readIndex(path: string): Promise<Config> {
  const found = await stat(path).catch(() => undefined)
  if (!found) {
    throw new SwapError('SWAP_MODEL_NOT_FOUND', `there is no model at "${path}"`, {
      hint: "give 'mini', or the path of a diffusers folder or a checkpoint",
    })
  }
  if (!found.isDirectory()) {
    throw new SwapError('SWAP_MODEL_NOT_A_FOLDER', `"${path}" is a file, neither a diffusers folder nor a checkpoint`, {
      hint: 'give the folder that holds model_index.json, or a .safetensors or .ckpt checkpoint',
    })
  }
  const file = join(path, 'model_index.json')
  if (!(await exists(file))) {
    throw new SwapError('SWAP_MODEL_LAYOUT', `"${path}" is not a diffusers folder: model_index.json is missing`, {
      hint: 'give the folder that holds model_index.json',
    })
  }
  const index = await readConfig(file)
  for (const [key, names] of COMPONENTS) {
    const value = index.get(key)
    if (value === undefined || (Array.isArray(value) && value[1] == null)) continue
    if (!names.includes(Array.isArray(value) ? String(value[1]) : '')) throw index.unsupported(key)
  }
  const second = has(index, 'text_encoder_2')
  if (second && !has(index, 'text_encoder')) {
    throw index.unsupported('text_encoder', "choose SDXL's base model, not its refiner")
  }
  for (const part of ['unet', 'vae', 'text_encoder', 'tokenizer', 'scheduler', ...(second ? SECOND : [])]) {
    if (await exists(join(path, part), 'folder')) continue
    throw new SwapError('SWAP_MODEL_FILE_MISSING', `"${join(path, part)}" is missing`, {
      hint: 'the folder must be a whole diffusers model',
    })
  }
  return index
}

/** What SDXL has more of. */
const SECOND = ['text_encoder_2', 'tokenizer_2']

/** True where model_index.json names a part; `[null, null]` stands for none. */
export function has(index: Config, part: string): boolean {
  const value = index.get(part)
  return Array.isArray(value) && value[1] != null
}

/** The classes of a pipeline's parts that can be built; parts that are not listed do not touch the pictures. */
const COMPONENTS: [string, string[]][] = [
  ['unet', ['UNet2DConditionModel']],
  ['vae', ['AutoencoderKL']],
  ['text_encoder', ['CLIPTextModel', 'CLIPTextModelWithProjection']],
  ['text_encoder_2', ['CLIPTextModelWithProjection']],
  ['tokenizer', ['CLIPTokenizer', 'CLIPTokenizerFast']],
  ['tokenizer_2', ['CLIPTokenizer', 'CLIPTokenizerFast']],
  ['controlnet', []],
  ['prior', []],
  ['transformer', []],
]

/** A tensor of a component under its stored name. */
export interface StoredTensor extends HeaderTensor {
  file: string
}

const STEMS: Record<ComponentKind, string> = {
  unet: 'diffusion_pytorch_model',
  vae: 'diffusion_pytorch_model',
  text_encoder: 'model',
  text_encoder_2: 'model',
  controlnet: 'diffusion_pytorch_model',
}

/**
 * The tensors of one component: of one file, or of the shards that its index names. The plain files go before
 * those of the fp16 variant.
 *
 * @throws SwapError `SWAP_MODEL_FILE_MISSING`, `SWAP_MODEL_PICKLE`, `SWAP_MODEL_CONFIG`, `SWAP_MODEL_SHARD`, `SWAP_TENSOR_…`
 */
export async function readTensors(folder: string, component: ComponentKind): Promise<StoredTensor[]> {
  const stem = STEMS[component]
  for (const [single, sharded] of [
    [`${stem}.safetensors`, [`${stem}.safetensors.index.json`]],
    [
      `${stem}.fp16.safetensors`,
      // The first is what diffusers and transformers write, the second what hand-made folders have.
      [`${stem}.safetensors.index.fp16.json`, `${stem}.fp16.safetensors.index.json`],
    ],
  ] as const) {
    const file = join(folder, single)
    if (await exists(file)) return (await readHeader(file)).tensors.map((tensor) => ({ ...tensor, file }))
    for (const name of sharded) {
      if (await exists(join(folder, name))) return await readShards(folder, join(folder, name))
    }
  }
  const wanted = join(folder, `${stem}.safetensors`)
  const pickle = (await readdir(folder).catch(() => [])).find((name) => /\.(bin|ckpt|pt|pth|msgpack|h5)$/.test(name))
  if (pickle !== undefined) {
    throw new SwapError('SWAP_MODEL_PICKLE', `"${join(folder, pickle)}" is not read: only safetensors files are`, {
      hint: 'load the model in diffusers and save it with save_pretrained(folder, safe_serialization=True)',
    })
  }
  throw new SwapError('SWAP_MODEL_FILE_MISSING', `"${wanted}" is missing`, {
    hint: 'the folder must be a whole diffusers model',
  })
}

async function readShards(folder: string, indexFile: string): Promise<StoredTensor[]> {
  const index = await readConfig(indexFile)
  const map = index.get('weight_map')
  if (typeof map !== 'object' || map === null || Array.isArray(map)) throw index.invalid('weight_map', 'an object')
  const wanted = new Map<string, Set<string>>()
  for (const [name, file] of Object.entries(map)) {
    // A shard lies beside its index: a path that leads elsewhere is not followed.
    if (typeof file !== 'string' || !/^[^/\\:\0]+\.safetensors$/.test(file) || file.startsWith('.')) {
      throw new SwapError('SWAP_MODEL_SHARD', `"${indexFile}": ${show(name)} lies in ${show(file)}`, {
        hint: 'a shard must be a .safetensors file in the same folder',
      })
    }
    const names = wanted.get(file) ?? new Set()
    wanted.set(file, names.add(name))
  }
  const tensors: StoredTensor[] = []
  for (const [name, names] of wanted) {
    const file = join(folder, name)
    if (!(await exists(file))) {
      throw new SwapError('SWAP_MODEL_FILE_MISSING', `"${file}" is missing`, { hint: `"${indexFile}" names it` })
    }
    for (const tensor of (await readHeader(file)).tensors) {
      if (names.delete(tensor.name)) tensors.push({ ...tensor, file })
    }
    const [lost] = names
    if (lost !== undefined) {
      throw new SwapError('SWAP_MODEL_SHARD', `"${file}" lacks ${show(lost)}, which "${indexFile}" says it has`, {
        hint: 'the shards are not of one model; get them again',
      })
    }
  }
  return tensors
}
