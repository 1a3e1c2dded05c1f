/** Weights within a prompt: `(sunglasses:1.2)`. */
import { SwapError } from '../errors.ts'

/** A piece of a prompt and how much it counts. */
export interface WeightedText {
  text: string
  weight: number
}

/** What brackets without a number multiply and divide by. */
const STEP = 1.1
const MOST = 10

/**
 * Splits a prompt at its brackets: `(…:1.2)` counts 1.2 times, `(…)` 1.1 times, `[…]` 1/1.1 times; nested ones multiply.
 * `\(`, `\)`, `\[`, `\]` and `\\` stand for themselves.
 *
 * @throws SwapError `SWAP_PROMPT_WEIGHT` for brackets that do not pair, and numbers that are none or out of range
 */
export function parseWeights(prompt: string): WeightedText[] {
  const pieces: WeightedText[] = []
  /** The brackets that are open: which kind, where, and the first piece within. */
  const open: { bracket: string; at: number; first: number }[] = []
  let text = ''
  const flush = (): void => {
    if (text !== '') pieces.push({ text, weight: 1 })
    text = ''
  }
  for (let at = 0; at < prompt.length; at++) {
    const character = prompt[at]!
    if (character === '\\' && '()[]\\'.includes(prompt[at + 1] ?? ' ')) {
      text += prompt[++at]
    } else if (character === '(' || character === '[') {
      flush()
      open.push({ bracket: character, at, first: pieces.length })
    } else if (character === ')' || character === ']') {
      const begun = open.pop()
      if (begun?.bracket !== (character === ')' ? '(' : '[')) {
        throw wrong(prompt, begun?.at ?? at, begun ? 'is closed by another kind' : 'closes nothing')
      }
      const ending = character === ']' ? { factor: 1 / STEP, rest: text } : weightAtEnd(text)
      if (ending === undefined) {
        throw wrong(prompt, at, `ends a weight that is not a number from 0 to ${MOST}`)
      }
      const { factor } = ending
      text = ending.rest
      flush()
      for (const piece of pieces.slice(begun.first)) piece.weight *= factor
      const heaviest = pieces.slice(begun.first).find(({ weight }) => weight > MOST)
      if (heaviest) throw wrong(prompt, begun.at, `makes a weight of ${heaviest.weight}, more than ${MOST}`)
    } else {
      text += character
    }
  }
  const left = open.pop()
  if (left) throw wrong(prompt, left.at, 'is never closed')
  flush()
  return pieces
}

/** The number at the end of what is in round brackets, and what is before it; undefined: one that is out of range. */
function weightAtEnd(text: string): { factor: number; rest: string } | undefined {
  const colon = text.lastIndexOf(':')
  const given = colon < 0 ? '' : text.slice(colon + 1).trim()
  // "(at 10:30 pm)" and "(see: this)" are texts; what looks like a number is meant for one.
  if (!/^[-+.\d]\S*$/.test(given)) return { factor: STEP, rest: text }
  const factor = /^(\d+\.?\d*|\.\d+)$/.test(given) ? Number(given) : Number.NaN
  return factor <= MOST ? { factor, rest: text.slice(0, colon) } : undefined
}

function wrong(prompt: string, at: number, what: string): SwapError {
  const around = prompt.slice(Math.max(0, at - 12), at + 20)
  return new SwapError('SWAP_PROMPT_WEIGHT', `the "${prompt[at]}" in "${around}" ${what}`, {
    hint: 'write (word:1.2), or \\( and \\) for brackets that are only text',
  })
}
