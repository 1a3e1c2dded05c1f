/** What a model is best used with, from a swap.json in its folder or from its family. */
import { join } from 'node:path'
import type { LearnRequest, ModelSpec } from '../native.ts'
import { Config, exists, jsonObject, readConfig } from './json.ts'

export type Family = (typeof FAMILIES)[number]
const FAMILIES = ['sd1', 'sd2', 'sdxl', 'mini', 'custom'] as const

/** Options that a caller leaves out take these. */
export interface ModelDefaults {
  guidanceScale: number
  /** Denoising steps. */
  steps: number
  /** Whether words behind a subject are kept apart from it. */
  isolate: boolean
  learn: {
    steps: number
    learningRate: number
    batch: number
    /** `levels`: downsampling levels of the attention loss, 0 the finest. */
    attention: { weight: number; levels: number[] }
    parametrization: LearnRequest['parametrization']
    /** Prompts to learn with, for every class; undefined: the package's own. */
    templates?: string[] | undefined
    /** The class words that the model knows, where it knows but a few; undefined: it is not known. */
    classes?: string[] | undefined
  }
}

/**
 * The family by the shapes of the parts, and the defaults of it; a `swap.json` of the folder changes both.
 *
 * @throws SwapError `SWAP_MODEL_CONFIG`
 */
export async function readDefaults(
  folder: string,
  spec: ModelSpec,
): Promise<{ family: Family; defaults: ModelDefaults }> {
  const file = join(folder, 'swap.json')
  const config = (await exists(file)) ? await readConfig(file) : new Config(file, new Map())
  const family = config.string('family', familyOf(spec))
  if (!isFamily(family)) throw config.invalid('family', `one of ${FAMILIES.join(', ')}`)
  const own = inner(config, 'defaults')
  const learn = inner(own, 'learn')
  const attention = inner(learn, 'attention')
  const levels = attention.integers('levels', usualLevels(spec), 0, 16)
  if (levels.some((level) => !attends(spec, level))) {
    throw attention.invalid('levels', `a list of levels with cross-attention (${attendingLevels(spec).join(', ')})`)
  }
  const parametrization = learn.get('parametrization') ?? 'attention'
  if (parametrization !== 'attention' && parametrization !== 'direct') {
    throw learn.invalid('parametrization', '"attention" or "direct"')
  }
  return {
    family,
    defaults: {
      guidanceScale: own.number('guidanceScale', spec.unet.pooledWidth ? 5 : 7.5),
      steps: own.integer('steps', 30, 1, 1000),
      isolate: own.boolean('isolate', false),
      learn: {
        steps: learn.integer('steps', 600),
        learningRate: learn.number('learningRate', 1e-4),
        batch: learn.integer('batch', 1, 1, 64),
        attention: { weight: attention.number('weight', 0.003), levels },
        parametrization,
        templates: learn.has('templates') ? learn.strings('templates', []) : undefined,
        ...(learn.has('classes') ? { classes: learn.strings('classes', []) } : {}),
      },
    },
  }
}

function inner(config: Config, key: string): Config {
  const value = config.get(key)
  const object = value === undefined ? new Map() : jsonObject(value)
  if (!object) throw config.invalid(key, 'an object')
  return new Config(config.file, object)
}

function isFamily(value: string): value is Family {
  return (FAMILIES as readonly string[]).includes(value)
}

function familyOf({ unet, textEncoders }: ModelSpec): Family {
  const widths = unet.levels.map(({ channels }) => channels).join()
  if (widths === '320,640,1280' && unet.crossAttentionDim === 2048 && textEncoders.length === 2) return 'sdxl'
  if (widths !== '320,640,1280,1280' || textEncoders[0]?.width !== unet.crossAttentionDim) return 'custom'
  return unet.crossAttentionDim === 768 ? 'sd1' : unet.crossAttentionDim === 1024 ? 'sd2' : 'custom'
}

function attends({ unet }: ModelSpec, level: number): boolean {
  const at = unet.levels[level]
  if (!at) return false
  return at.downAttention || at.upAttention || (unet.midAttention && level === unet.levels.length - 1)
}

/** The levels that have cross-attention, 0 the finest; the middle block is of the coarsest. */
export function attendingLevels(spec: ModelSpec): number[] {
  return spec.unet.levels.map((_, level) => level).filter((level) => attends(spec, level))
}

/** 32x32 and 16x16 at 512 px, for SDXL 32x32 at 1024 px; all there are where a model attends at none of them. */
function usualLevels(spec: ModelSpec): number[] {
  const usual = (spec.unet.pooledWidth ? [2] : [1, 2]).filter((level) => attends(spec, level))
  return usual.length > 0 ? usual : attendingLevels(spec)
}
