/** Drawing as a picture was drawn before: what made it stands in its file. */
import { isDeepStrictEqual } from 'node:util'
import { SwapError } from './errors.ts'
import type { Parameters } from './image/metadata.ts'

/** Of a picture's parameters those that are options, too. */
const OPTIONS = [
  'prompt',
  'negativePrompt',
  'promptWeights',
  'isolate',
  'steps',
  'guidanceScale',
  'guidanceRescale',
  'scheduler',
  'seed',
  'width',
  'height',
  'strength',
] as const

/** What a picture was drawn with, from its parameters or its file; empty where `like` is undefined. */
export async function parametersLike(like: unknown): Promise<Parameters> {
  if (like === undefined) return {}
  const parameters = await readParameters(like)
  // Those with subjects that say nothing of it were drawn before it was there.
  const { subjects, isolate } = parameters
  if (Array.isArray(subjects) && subjects.length > 0 && isolate === undefined) return { ...parameters, isolate: false }
  return parameters
}

async function readParameters(like: unknown): Promise<Parameters> {
  if (typeof like !== 'string' && !(like instanceof Uint8Array)) return like as Parameters
  const { parametersIn } = await import('./image/index.ts')
  const parameters = await parametersIn(like)
  if (parameters) return parameters
  const name = typeof like === 'string' ? `"${like}"` : 'given as bytes'
  throw new SwapError('SWAP_IMAGE_PARAMETERS', `the picture ${name} does not say how it was drawn`, {
    hint: 'give a PNG that generate() made, as it was saved',
  })
}

/** The options of a call, and for those that it leaves out what the picture was drawn with. */
export function optionsLike(given: object, parameters: Parameters): Record<string, unknown> {
  const said = Object.entries(given).filter(([, value]) => value !== undefined)
  const found = OPTIONS.filter((name) => parameters[name] !== undefined)
  return { ...Object.fromEntries(found.map((name) => [name, parameters[name]])), ...Object.fromEntries(said) }
}

/** What made the pictures and cannot be had from their parameters, which only tell it from another. */
export interface Made {
  model: string
  image: unknown
  mask: unknown
  control: unknown
  loras: unknown
}

/** What is other than it was, so that the picture will be another. */
export function differences(parameters: Parameters, now: Made): string[] {
  if (Object.keys(parameters).length === 0) return []
  const warnings: string[] = []
  for (const [name, is] of Object.entries(now)) {
    const was = parameters[name]
    if (isDeepStrictEqual(was, is)) continue
    if (name === 'model') warnings.push(`the picture was drawn with the model ${show(was)}, this one is ${show(is)}`)
    else if (is === undefined) warnings.push(`the picture was drawn with "${name}", which is not given`)
    else if (was === undefined) warnings.push(`the picture was drawn without "${name}"`)
    else warnings.push(`the picture was drawn with another "${name}"`)
  }
  return warnings
}

const show = (value: unknown): string => JSON.stringify(value) ?? 'of no name'
