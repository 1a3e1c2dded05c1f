/** Texts of any length: as many chunks as it takes, each with its own begin and end. */
import { SwapError } from '../errors.ts'
import type { PromptTokens } from '../native.ts'
import type { ClipTokenizer } from './tokenizer.ts'

/** Far above what a text encoder was trained to put together; each costs memory in every cross-attention. */
export const MAX_CHUNKS = 16

/** What a chunk's end must not divide: a word's tokens, or the place of a subject. */
export interface Unit {
  ids: number[]
  weight: number
  /** Index of the subject that stands here; undefined: text. */
  subject?: number | undefined
}

/** One text encoder's tokens; positions are counted over the chunks. */
export interface Chunked {
  ids: number[]
  slots: PromptTokens['slots']
  weights: number[]
}

/**
 * Fills chunks with units, in order. A unit that does not fit any more begins the next chunk; only a word longer than
 * a whole chunk is divided.
 *
 * @throws SwapError `SWAP_PROMPT_TOO_LONG`
 */
export function fillChunks(tokenizer: ClipTokenizer, units: readonly Unit[]): Chunked {
  const room = tokenizer.positions - 2
  const chunks: Unit[][] = [[]]
  let used = 0
  for (const unit of units.flatMap((each) => divided(each, room))) {
    if (unit.ids.length > room) checkLength(tokenizer, unit.ids.length, 'a subject')
    if (used + unit.ids.length > room) {
      chunks.push([])
      used = 0
    }
    chunks.at(-1)!.push(unit)
    used += unit.ids.length
  }
  if (chunks.length > MAX_CHUNKS) {
    const tokens = units.reduce((sum, { ids }) => sum + ids.length, 0)
    throw new SwapError(
      'SWAP_PROMPT_TOO_LONG',
      `the prompt has ${tokens} tokens, which take ${chunks.length} chunks of ${room}; the most are ${MAX_CHUNKS}`,
      { hint: 'make it shorter: what comes late in a long prompt hardly counts' },
    )
  }
  const filled: Chunked = { ids: [], slots: [], weights: [] }
  for (const chunk of chunks) {
    const weights = [1]
    for (const { ids, weight, subject } of chunk) {
      if (subject !== undefined) filled.slots.push({ subject, position: filled.ids.length + weights.length })
      for (const _ of ids) weights.push(weight)
    }
    filled.ids.push(...tokenizer.padded(chunk.flatMap(({ ids }) => ids)))
    while (weights.length < tokenizer.positions) weights.push(1)
    filled.weights.push(...weights)
  }
  return filled
}

/** Raises `SWAP_PROMPT_TOO_LONG` where so many tokens, with begin and end, do not fit. */
export function checkLength({ positions }: ClipTokenizer, tokens: number, what: string): void {
  const over = tokens + 2 - positions
  if (over <= 0) return
  throw new SwapError(
    'SWAP_PROMPT_TOO_LONG',
    `${what} has ${tokens} tokens, ${over} more than the ${positions - 2} that this model takes`,
    { hint: `make it ${over} ${over === 1 ? 'token' : 'tokens'} shorter: a word has one or two` },
  )
}

function divided(unit: Unit, room: number): Unit[] {
  if (unit.ids.length <= room || unit.subject !== undefined) return [unit]
  return [{ ...unit, ids: unit.ids.slice(0, room) }, ...divided({ ...unit, ids: unit.ids.slice(room) }, room)]
}

/** Both prompts of a guided step go through the U-Net together: the shorter one gets empty chunks. */
export function sameLength(tokenizers: readonly ClipTokenizer[], prompts: readonly PromptTokens[]): void {
  const length = Math.max(...prompts.map(({ ids }) => ids[0]?.length ?? 0))
  for (const prompt of prompts) {
    prompt.ids = prompt.ids.map((ids, index) => {
      const longer = [...ids]
      while (longer.length < length) longer.push(...tokenizers[index]!.padded([]))
      return longer
    })
    if (!prompt.weights) continue
    const weights = new Float32Array(length).fill(1)
    weights.set(prompt.weights)
    prompt.weights = weights
  }
}
