/** The models that are on this machine: the embedded one and those of the hub's cache. */
import { join } from 'node:path'
import { packageRoot } from '../paths.ts'
import { type CachedModel, folderListing, folderSize, listCache } from './cache.ts'
import { hubSettings } from './settings.ts'

const FAMILY_NAMES = ['mini', 'sd1', 'sd2', 'sdxl', 'custom'] as const

export interface ListedModel extends CachedModel {
  /** As its swap.json says, else by the U-Net's config; `'?'` where that cannot be said. */
  family: (typeof FAMILY_NAMES)[number] | '?'
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
  const read = (path: string) =>
    folderListing('', folder)
      .json(path)
      .catch(() => undefined)
  const own = (await read('swap.json'))?.get('family')
  const known = FAMILY_NAMES.find((name) => name === own)
  if (known !== undefined) return known
  const config = await read('unet/config.json')
  const widths = config?.get('block_out_channels')
  if (!Array.isArray(widths)) return '?'
  return FAMILIES[`${widths.join()}/${config?.get('cross_attention_dim')}`] ?? 'custom'
}
