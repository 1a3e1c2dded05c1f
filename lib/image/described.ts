/** What a picture's file says about how it was made. */

import type { Metadata } from 'sharp'
import { type ImageInput, openImage } from './decode.ts'
import type { Parameters } from './metadata.ts'

export interface Described {
  prompt: string
  /** Names of the subjects in it. */
  subjects: string[]
}

/** The prompt in a PNG that this package wrote; undefined for other pictures. */
export async function describedIn(picture: ImageInput): Promise<Described | undefined> {
  const { prompt, subjects } = (await parametersIn(picture)) ?? {}
  if (typeof prompt !== 'string') return undefined
  const names = Array.isArray(subjects) ? subjects.filter((name) => typeof name === 'string') : []
  return { prompt, subjects: names }
}

/** All that a PNG of this package says of its making; undefined for other pictures. */
export async function parametersIn(picture: ImageInput): Promise<Parameters | undefined> {
  const { pipeline } = await openImage(picture)
  const { comments }: Metadata = await pipeline.metadata()
  const text = comments?.find(({ keyword }) => keyword === 'swap')?.text
  if (text === undefined) return undefined
  try {
    const parameters: unknown = JSON.parse(text)
    return typeof parameters === 'object' && parameters !== null ? (parameters as Parameters) : undefined
  } catch {
    return undefined
  }
}
