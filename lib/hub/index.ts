/** Models on the Hugging Face hub: in its cache, or fetched into it. */
import { stat } from 'node:fs/promises'
import { SwapError } from '../errors.ts'
import { findSnapshot } from './cache.ts'
import { type PullOptions, pull } from './pull.ts'
import { parseReference } from './reference.ts'
import { hubSettings } from './settings.ts'

export { type ListedModel, listModels } from './list.ts'
export { type Pulled, type PullOptions, type PullProgress, pull } from './pull.ts'
export { type HubReference, parseReference } from './reference.ts'

export interface Located {
  /** What readModel() takes: `'mini'`, a folder or a file. */
  path: string
  /** What the model is called; undefined: as its folder is. */
  name?: string | undefined
}

/**
 * Where a model lies: `'mini'` and paths are themselves; `owner/name[@revision]`, where no such path is, is the hub's
 * cache, into which it is fetched when it is not there whole.
 *
 * @throws SwapError `SWAP_HUB_…`; the signal's reason
 */
export async function locateModel(model: string, options: PullOptions = {}): Promise<Located> {
  if (model === 'mini' || (await stat(model).catch(() => undefined))) return { path: model }
  // A file that is not there is not a repository of that name.
  const reference = /\.(safetensors|ckpt|pth?|bin)$/i.test(model) ? undefined : parseReference(model)
  if (!reference) return { path: model }
  const settings = await hubSettings(options.env)
  const found = await findSnapshot(settings.cache, reference)
  if (found) return { path: found.path, name: model }
  if (settings.offline) {
    throw new SwapError('SWAP_HUB_OFFLINE', `${model} is not in the cache, and HF_HUB_OFFLINE is set`, {
      hint: `fetch it once: HF_HUB_OFFLINE=0 npx swap pull ${model}; it is looked for in "${settings.cache}"`,
    })
  }
  const { path } = await pull(reference, options)
  return { path, name: model }
}
