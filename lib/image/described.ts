/** What a picture's file says about how it was made. */

import type { Metadata } from 'sharp'
import { type ImageInput, openImage } from './decode.ts'

export interface Described {
  prompt: string
  /** Names of the subjects in it. */
  subjects: string[]
}

/** The prompt in a PNG that this package wrote; undefined for other pictures. */
export async function describedIn(picture: ImageInput): Promise<Described | undefined> {
  const { pipeline } = await openImage(picture)
  const { comments }: Metadata = await pipeline.metadata()
  const text = comments?.find(({ keyword }) => keyword === 'swap')?.text
  if (text === undefined) return undefined
  try {
    const { prompt, subjects } = JSON.parse(text) as { prompt?: unknown; subjects?: unknown }
    if (typeof prompt !== 'string') return undefined
    const names = Array.isArray(subjects) ? subjects.filter((name) => typeof name === 'string') : []
    return { prompt, subjects: names }
  } catch {
    return undefined
  }
}
