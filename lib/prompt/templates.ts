/** What the learning prompts say: one list for people, one for all else. */
import { SwapError } from '../errors.ts'
import type { TemplateTokens } from '../native.ts'
import { checkLength } from './chunks.ts'
import type { ClipTokenizer } from './tokenizer.ts'

/** More pieces than this, and the tokenizer does not know the word: its vectors would stand for letters. */
const MAX_CLASS_TOKENS = 4

const PEOPLE = new Set(
  (
    'person people human man woman boy girl child kid baby toddler teenager adult guy lady gentleman ' +
    'grandmother grandfather mother father bride groom actor actress athlete musician singer doctor nurse ' +
    'celebrity face'
  ).split(' '),
)

const FACE_TEMPLATES = [
  'a photo of {}',
  'a photo of a {}',
  'a photo of the {}',
  'a portrait of {}',
  'a photo of the face of {}',
  'a close-up photo of {}',
  'a good photo of {}',
  'a cropped photo of {}',
  'a bright photo of {}',
  'a picture of {}',
]

const THING_TEMPLATES = [
  'a photo of {}',
  'a photo of a {}',
  'a photo of the {}',
  'a photo of one {}',
  'a close-up photo of {}',
  'a good photo of {}',
  'a cropped photo of {}',
  'a bright photo of {}',
  'a picture of {}',
  'a rendition of {}',
]

/** The learning prompts for a class word, `{}` where it goes. */
export function templatesFor(classWord: string): readonly string[] {
  const head = classWord.trim().toLowerCase().split(/\s+/).at(-1) ?? ''
  return PEOPLE.has(head) ? FACE_TEMPLATES : THING_TEMPLATES
}

/**
 * The learning prompts, tokenized with the class word in its place: at the same time the reference prompts.
 *
 * @param templates prompts with `{}` once; default: the package's for that class
 * @returns the tokenized templates, the number of the class word's tokens, the prompts as texts, and what is doubtful
 * @throws SwapError `SWAP_PROMPT_UNKNOWN_CLASS`, `SWAP_PROMPT_TEMPLATE`, `SWAP_PROMPT_TOO_LONG`
 */
export function classTemplates(
  tokenizers: readonly ClipTokenizer[],
  classWord: string,
  templates: readonly string[] = templatesFor(classWord),
): { templates: TemplateTokens[]; classTokens: number; texts: string[]; warnings: string[] } {
  const classTokens = countClassTokens(tokenizers, classWord)
  if (templates.length === 0) {
    throw new SwapError('SWAP_PROMPT_TEMPLATE', 'the list of templates is empty', { hint: 'give at least one' })
  }
  const encoded = templates.map((template) => {
    const [before, after, ...more] = template.split('{}')
    if (before === undefined || after === undefined || more.length > 0) {
      throw new SwapError('SWAP_PROMPT_TEMPLATE', `the template "${template}" must contain {} once`, {
        hint: '{} is where the subject goes: "a photo of {}"',
      })
    }
    // Angle brackets beside the {} would be read as placeholders: the text around it is tokenized on its own.
    const ids = tokenizers.map((tokenizer) => {
      const all = [...tokenizer.tokens(before), ...tokenizer.tokens(classWord), ...tokenizer.tokens(after)]
      checkLength(tokenizer, all.length, `the template "${template}"`)
      return tokenizer.padded(all)
    })
    return { ids, position: tokenizers[0]!.tokens(before).length + 1 }
  })
  const texts = templates.map((template) => template.replace('{}', classWord))
  return { templates: encoded, classTokens, texts, warnings: inPieces(tokenizers[0]!, classWord) }
}

/** A word that has no token of its own was rare where the tokenizer was made, so the model may hardly know it. */
function inPieces(tokenizer: ClipTokenizer, classWord: string): string[] {
  if (tokenizer.words(classWord).every((word) => word.length === 1)) return []
  const pieces = tokenizer.pieces(classWord).map((piece) => `"${piece}"`)
  return [`the model reads the class word "${classWord}" as ${pieces.join(' ')}: it may not know what that is`]
}

/**
 * A model of few words says which ones it knows: others may fall into known pieces and still mean nothing to it.
 *
 * @param known from the model's swap.json; undefined: any word
 * @throws SwapError `SWAP_PROMPT_UNKNOWN_CLASS`
 */
export function checkClass(classWord: string, known: readonly string[] | undefined): void {
  const head = classWord.trim().toLowerCase().split(/\s+/).at(-1) ?? ''
  if (!known || known.includes(head)) return
  throw new SwapError('SWAP_PROMPT_UNKNOWN_CLASS', `the model does not know the class word "${classWord}"`, {
    hint: `choose one that it knows: ${known.join(', ')}`,
  })
}

/** How many tokens the class word has; an error where the tokenizer does not know it. */
function countClassTokens(tokenizers: readonly ClipTokenizer[], classWord: string): number {
  const counts = tokenizers.map((tokenizer) => {
    const ids = tokenizer.tokens(classWord)
    const special = ids.includes(tokenizer.unk) || ids.includes(tokenizer.bos) || ids.includes(tokenizer.eos)
    const pieces = tokenizer.pieces(classWord)
    const known = ids.length > 0 && ids.length <= MAX_CLASS_TOKENS && !special && !isSpelt(pieces)
    if (known) return ids.length
    throw new SwapError(
      'SWAP_PROMPT_UNKNOWN_CLASS',
      ids.length === 0
        ? `the class word "${classWord}" is empty`
        : `the model does not know the class word "${classWord}": its tokens are ${pieces.map((piece) => `"${piece}"`).join(', ')}`,
      { hint: 'choose a common word for what the subject is, such as "person" or "dog"' },
    )
  })
  return counts[0] ?? 0
}

/** True where a word falls into single letters or bytes, which every byte-level vocabulary has. */
function isSpelt(pieces: readonly string[]): boolean {
  const words = pieces
    .join(' ')
    .split('</w>')
    .map((word) => word.trim().split(' '))
  return words.some((word) => word.length > 1 && word.every((piece) => [...piece].length === 1))
}
