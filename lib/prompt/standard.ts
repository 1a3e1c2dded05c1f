/** CLIP's own vocabulary, which single files do not carry: the tokens follow from the merges. */
import { join } from 'node:path'
import { readFileLimited } from '../files.ts'
import { packageRoot } from '../paths.ts'

const END_OF_WORD = '</w>'

/** Ids by token, all its own keys: an object as JSON gives it, for a copy of 50,000 tokens takes a while. */
export type Vocabulary = Readonly<Record<string, number>>

/** The folder of the package that holds the merges. */
export function standardFolder(): string {
  return join(packageRoot(), 'models', 'clip')
}

/** 256 bytes, the same at a word's end, one token a merge, and the two that begin and end a text. */
export async function standardVocabulary(): Promise<{
  vocab: Vocabulary
  highest: number
  merges: [string, string][]
}> {
  const text = new TextDecoder().decode(await readFileLimited(join(standardFolder(), 'merges.txt'), 2 ** 24))
  const merges = text
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#version'))
    .map((line) => line.split(' ') as [string, string])
  const bytes = byteLetters()
  const tokens = [
    ...bytes,
    ...bytes.map((letter) => letter + END_OF_WORD),
    ...merges.map((pair) => pair.join('')),
    '<|startoftext|>',
    '<|endoftext|>',
  ]
  return { vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), highest: tokens.length - 1, merges }
}

/** A letter for each byte: those that can be seen stand for themselves and come first, the others follow from U+0100. */
function byteLetters(): string[] {
  const seen = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
  const all = Array.from({ length: 256 }, (_, byte) => byte)
  const hidden = all.filter((byte) => !seen(byte)).map((_, index) => 256 + index)
  return [...all.filter(seen), ...hidden].map((code) => String.fromCharCode(code))
}
