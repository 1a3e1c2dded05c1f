/** Cards: a JSON file that says what a net is, how it wants its pictures, and what its numbers mean. */

import { dirname, resolve } from 'node:path'
import * as v from 'valibot'
import { SwapError } from '../errors.ts'
import { readFileLimited } from '../files.ts'
import { parseJson } from '../model/json.ts'

const three = v.tuple([v.number(), v.number(), v.number()])
const pixels = {
  /** Pixels a side that the net takes. */
  size: v.pipe(v.number(), v.integer(), v.minValue(8), v.maxValue(4096)),
  /** Taken from pixels of 0..1, channel by channel, before they are divided by `std`. */
  mean: v.optional(three, [0, 0, 0]),
  std: v.optional(three, [1, 1, 1]),
  channels: v.optional(v.picklist(['rgb', 'bgr']), 'rgb'),
  /** Of the net; its first ones where they are not named. */
  input: v.optional(v.string()),
  output: v.optional(v.string()),
}
/** Pictures score as having what was asked for from here on. */
const threshold = v.optional(v.number())

const identitySchema = v.looseObject({ kind: v.literal('identity'), net: v.string(), ...pixels, threshold })

const classifierSchema = v.looseObject({
  kind: v.literal('classifier'),
  net: v.string(),
  ...pixels,
  threshold: v.optional(v.number(), 0.5),
  /** What is asked, in the order of the net's numbers: one for each value. */
  fields: v.pipe(
    v.array(v.object({ name: v.string(), values: v.pipe(v.array(v.string()), v.minLength(2)) })),
    v.minLength(1),
  ),
  /** What words of a prompt ask for: one of these values. */
  words: v.array(v.object({ says: v.array(v.string()), field: v.string(), values: v.array(v.string()) })),
})

const clipSchema = v.looseObject({
  kind: v.literal('clip'),
  image: v.string(),
  text: v.string(),
  /** A folder with CLIP's tokenizer. */
  tokenizer: v.string(),
  positions: v.optional(v.pipe(v.number(), v.integer(), v.minValue(2), v.maxValue(4096)), 77),
  ...pixels,
  threshold: v.optional(v.number(), 0.25),
  textOutput: v.optional(v.string()),
})

const cardSchema = v.variant('kind', [identitySchema, classifierSchema, clipSchema])

export type IdentityCard = v.InferOutput<typeof identitySchema>
export type ClassifierCard = v.InferOutput<typeof classifierSchema>
export type ClipCard = v.InferOutput<typeof clipSchema>
export type Card = IdentityCard | ClassifierCard | ClipCard

const LIMIT = 4 * 2 ** 20

/**
 * Reads a card; the files that it names lie beside it.
 *
 * @throws SwapError `SWAP_EVALUATE_CARD`, `SWAP_FILE_…`
 */
export async function readCard(path: string): Promise<{ card: Card; beside: (name: string) => string }> {
  const bytes = await readFileLimited(path, LIMIT)
  let value: unknown
  try {
    value = parseJson(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (cause) {
    throw new SwapError('SWAP_EVALUATE_CARD', `"${path}" is not JSON`, {
      hint: 'give the card of a net, not the net itself: docs/evaluate.md has examples',
      cause,
    })
  }
  const result = v.safeParse(cardSchema, value)
  if (!result.success) {
    const [issue] = result.issues
    const where = v.getDotPath(issue)
    throw new SwapError('SWAP_EVALUATE_CARD', `"${path}"${where ? `: "${where}"` : ''}: ${issue.message}`, {
      hint: "a card has the kind 'identity', 'classifier' or 'clip': docs/evaluate.md has examples",
    })
  }
  const card = result.output
  if (card.kind === 'classifier') checkWords(path, card)
  return { card, beside: (name) => resolve(dirname(path), name) }
}

function checkWords(path: string, { fields, words }: ClassifierCard): void {
  for (const { field, values } of words) {
    const known = fields.find(({ name }) => name === field)?.values
    const wrong = known ? values.find((value) => !known.includes(value)) : field
    if (wrong !== undefined)
      throw new SwapError('SWAP_EVALUATE_CARD', `"${path}": "words" speaks of "${wrong}", which "fields" does not have`)
  }
}
