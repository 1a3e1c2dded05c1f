/** Prompts: placeholders become class words, texts become padded ids, and where each subject stands is noted. */
import { SwapError } from '../errors.ts'
import type { PromptTokens } from '../native.ts'
import { fillChunks, sameLength, type Unit } from './chunks.ts'
import type { ClipTokenizer } from './tokenizer.ts'
import { parseWeights } from './weights.ts'

/** A subject as a prompt sees it. */
export interface PlaceholderSubject {
  /** The prompt says `<name>`. */
  name: string
  /** What stands in its place; undefined: any word, its vectors stand wherever that is read. */
  classWord: string | undefined
  /** How many tokens its vectors replace. */
  tokens: number
}

/** Anything in angle brackets that could be meant for a name; not CLIP's own `<|endoftext|>`, nor `a < b > c`. */
const PLACEHOLDER = /<([^<>|\s](?:[^<>\n]{0,62}[^<>|\s])?)>/gu

/** The names in angle brackets in a text, in order, with repetitions. */
export function placeholders(text: string): string[] {
  return [...text.normalize('NFC').matchAll(PLACEHOLDER)].map(([, name]) => name!)
}

/** How a prompt is read. */
export interface PromptOptions {
  /** `(word:1.2)` is a weight; else brackets are text. */
  weights?: boolean | undefined
  /**
   * Words that are no subject keep the states that they have with the class words; not in a prompt in which a subject
   * without class word stands.
   */
  isolate?: boolean | undefined
}

/**
 * Tokenizes a prompt for every text encoder, in as many chunks as it takes.
 *
 * A placeholder counts as its class word with spaces around it, so a prompt with a subject aligns token by token with
 * the same prompt about the class.
 *
 * @throws SwapError `SWAP_PROMPT_UNKNOWN_SUBJECT`, `SWAP_PROMPT_TOO_LONG`, `SWAP_PROMPT_CLASS_TOKENS`,
 *   `SWAP_PROMPT_WEIGHT`
 */
export function encodePrompt(
  tokenizers: readonly ClipTokenizer[],
  text: string,
  subjects: readonly PlaceholderSubject[],
  { weights = false, isolate = false }: PromptOptions = {},
): PromptTokens {
  const source = text.normalize('NFC')
  const parts = (weights ? parseWeights(source) : [{ text: source, weight: 1 }]).flatMap(({ text, weight }) =>
    split(text, subjects).map((part) => ({ part, weight })),
  )
  const [first, ...others] = tokenizers.map((tokenizer) => {
    const units = parts.flatMap(({ part, weight }): Unit[] => {
      if (typeof part === 'string') return tokenizer.words(part).map((ids) => ({ ids, weight }))
      return [{ ids: classIds(tokenizer, subjects[part]!), weight, subject: part }]
    })
    return fillChunks(tokenizer, units)
  })
  const { slots, weights: all } = first!
  if (others.some((other) => JSON.stringify([other.slots, other.weights]) !== JSON.stringify([slots, all]))) {
    throw new SwapError('SWAP_TOKENIZER_MISMATCH', "the model's tokenizers split the prompt differently", {
      hint: 'get the tokenizer folders again',
    })
  }
  const encoded: PromptTokens = { ids: [first!, ...others].map(({ ids }) => ids), slots }
  if (all.some((weight) => weight !== 1)) encoded.weights = Float32Array.from(all)
  // Where letters fill a subject's place, the other words' states beside them mean nothing.
  const classes = slots.every(({ subject }) => subjects[subject]!.classWord !== undefined)
  if (isolate && slots.length > 0 && classes) encoded.isolate = true
  return encoded
}

/**
 * A prompt and a negative prompt of the same length, for the steps that take both.
 *
 * @param texts without a negative prompt its states are zeros, which an empty one's are not
 */
export function encodePrompts(
  tokenizers: readonly ClipTokenizer[],
  texts: { prompt: string; negative: string | undefined },
  subjects: readonly PlaceholderSubject[],
  options: PromptOptions = {},
): { prompt: PromptTokens; negative: PromptTokens } {
  const prompt = encodePrompt(tokenizers, texts.prompt, subjects, options)
  if (texts.negative === undefined) return { prompt, negative: { ids: prompt.ids, slots: [], zero: true } }
  const negative = encodePrompt(tokenizers, texts.negative, subjects, options)
  sameLength(tokenizers, [prompt, negative])
  return { prompt, negative }
}

/** The class word's tokens, as many as the subject has vectors for. */
function classIds(tokenizer: ClipTokenizer, { classWord, name, tokens }: PlaceholderSubject): number[] {
  const ids = classWord === undefined ? filler(tokenizer, tokens) : tokenizer.tokens(classWord)
  if (ids.length === tokens) return ids
  throw new SwapError(
    'SWAP_PROMPT_CLASS_TOKENS',
    `<${name}> has ${tokens} vectors a stage; its class word "${classWord}" has ${ids.length} tokens in this model`,
    { hint: 'the subject was learnt with another tokenizer; learn it again with this model' },
  )
}

/** Ids of a letter: any would do but those that begin, end or fill up a text. */
function filler(tokenizer: ClipTokenizer, tokens: number): number[] {
  const [letter = tokenizer.unk] = tokenizer.tokens('x')
  return new Array<number>(tokens).fill(letter)
}

/** Texts and the indices of the subjects between them. */
function split(source: string, subjects: readonly PlaceholderSubject[]): (string | number)[] {
  const marks = subjects.map(({ name }, index) => ({ mark: `<${name.normalize('NFC')}>`, index }))
  // The longest first, should one placeholder begin like another.
  marks.sort((a, b) => b.mark.length - a.mark.length)
  const parts: (string | number)[] = []
  let from = 0
  for (let at = source.indexOf('<'); at >= 0; at = source.indexOf('<', at)) {
    const found = marks.find(({ mark }) => source.startsWith(mark, at))
    if (!found) {
      at++
      continue
    }
    parts.push(source.slice(from, at), found.index)
    at += found.mark.length
    from = at
  }
  parts.push(source.slice(from))
  for (const part of parts) {
    const [unknown] = typeof part === 'string' ? placeholders(part) : []
    if (unknown !== undefined) throw unknownSubject(unknown, subjects)
  }
  return parts
}

function unknownSubject(name: string, subjects: readonly PlaceholderSubject[]): SwapError {
  const given = subjects.map((subject) => `<${subject.name}>`).join(', ')
  const rest = given === '' ? 'no subject was given' : `the given subjects are ${given}`
  return new SwapError('SWAP_PROMPT_UNKNOWN_SUBJECT', `the prompt speaks of <${name}>, but ${rest}`, {
    hint: 'give the subject, or write the word without angle brackets',
  })
}
