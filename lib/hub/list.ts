/** The models that are on this machine: the embedded one and those of the hub's cache. */
import { join } from 'node:path'
import { packageRoot } from '../paths.ts'
import { type CachedModel, folderListing, folderSize, listCache } from './cache.ts'
import { hubSettings } from './settings.ts'

export interface ListedModel extends CachedModel {
  /** By the U-Net's config; `'custom'` for an architecture of its own, `'?'` where that cannot be said. */
  family: 'mini' | 'sd1' | 'sd2' | 'sdxl' | 'custom' | '?'
}

/** @throws SwapError `SWAP_HUB_SETTING` */
export async function listModels(env?: NodeJS.ProcessEnv): Promise<ListedModel[]> {
  const { cache } = await hubSettings(env)
  const path = join(packageRoot(), 'models', 'mini')
  const mini: ListedModel = { model: 'mini', path, size: await folderSize(path), whole: true, family: 'mini' }
  const cached = await listCache(cache)
  return [mini, ...(await Promise.all(cached.map(async (model) => ({ ...model, family: await familyOf(model.path) }))))]
}

/** Widths of the text states by which the common architectures are told apart. */
const FAMILIES: Record<string, ListedModel['family']> = {
  '320,640,1280,1280/768': 'sd1',
  '320,640,1280,1280/1024': 'sd2',
  '320,640,1280/2048': 'sdxl',
}

async function familyOf(folder: string): Promise<ListedModel['family']> {
  const config = await folderListing('', folder)
    .json('unet/config.json')
    .catch(() => undefined)
  const widths = config?.get('block_out_channels')
  if (!Array.isArray(widths)) return '?'
  return FAMILIES[`${widths.join()}/${config?.get('cross_attention_dim')}`] ?? 'custom'
}
