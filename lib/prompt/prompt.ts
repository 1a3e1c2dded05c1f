/** Prompts: placeholders become class words, texts become padded ids, and where each subject stands is noted. */
import { SwapError } from '../errors.ts'
import type { PromptTokens } from '../native.ts'
import type { ClipTokenizer } from './tokenizer.ts'

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

/**
 * Tokenizes a prompt for every text encoder.
 *
 * A placeholder counts as its class word with spaces around it, so a prompt with a subject aligns token by token with
 * the same prompt about the class.
 *
 * @throws SwapError `SWAP_PROMPT_UNKNOWN_SUBJECT`, `SWAP_PROMPT_TOO_LONG`, `SWAP_PROMPT_CLASS_TOKENS`
 */
export function encodePrompt(
  tokenizers: readonly ClipTokenizer[],
  text: string,
  subjects: readonly PlaceholderSubject[],
): PromptTokens {
  const parts = split(text, subjects)
  const encoded = tokenizers.map((tokenizer) => {
    const ids: number[] = []
    const slots: PromptTokens['slots'] = []
    for (const part of parts) {
      if (typeof part === 'string') {
        ids.push(...tokenizer.tokens(part))
        continue
      }
      const { classWord, name, tokens } = subjects[part]!
      const word = classWord === undefined ? filler(tokenizer, tokens) : tokenizer.tokens(classWord)
      if (word.length !== tokens) {
        throw new SwapError(
          'SWAP_PROMPT_CLASS_TOKENS',
          `<${name}> has ${tokens} vectors a stage; its class word "${classWord}" has ${word.length} tokens in this model`,
          { hint: 'the subject was learnt with another tokenizer; learn it again with this model' },
        )
      }
      // One for the token that begins the text.
      slots.push({ subject: part, position: ids.length + 1 })
      ids.push(...word)
    }
    checkLength(tokenizer, ids.length, 'the prompt')
    return { ids: tokenizer.padded(ids), slots }
  })
  const [first, ...others] = encoded
  const slots = first?.slots ?? []
  if (others.some((other) => JSON.stringify(other.slots) !== JSON.stringify(slots))) {
    throw new SwapError('SWAP_TOKENIZER_MISMATCH', "the model's tokenizers split the prompt differently", {
      hint: 'get the tokenizer folders again',
    })
  }
  return { ids: encoded.map(({ ids }) => ids), slots }
}

/** Ids of a letter: any would do but those that begin, end or fill up a text. */
function filler(tokenizer: ClipTokenizer, tokens: number): number[] {
  const [letter = tokenizer.unk] = tokenizer.tokens('x')
  return new Array<number>(tokens).fill(letter)
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

/** Texts and the indices of the subjects between them. */
function split(text: string, subjects: readonly PlaceholderSubject[]): (string | number)[] {
  const source = text.normalize('NFC')
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
