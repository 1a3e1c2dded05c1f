/** Nets that say how well a picture shows its prompt: a classifier of this package's own, or CLIP. */

import type { ImageInput } from '../image/index.ts'
import { ClipTokenizer } from '../prompt/tokenizer.ts'
import type { ClassifierCard, ClipCard } from './card.ts'
import { dot, normalised, pixelsOf } from './pixels.ts'
import { Net } from './runtime.ts'

export interface PromptScorer {
  /** A picture whose score is at least this shows its prompt. */
  readonly threshold: number
  /** One score for each picture; a prompt each. Undefined where the prompt asks for nothing that the net knows. */
  score(pictures: readonly ImageInput[], prompts: readonly string[]): Promise<(number | undefined)[]>
  close(): Promise<void>
}

const PICTURES_AT_ONCE = 32

/** Which values a prompt allows, by field. Where several words speak of one field, what all of them allow. */
export function askedFor(prompt: string, words: ClassifierCard['words']): Map<string, string[]> {
  const said = words
    .flatMap(({ says, field, values }) => says.map((phrase) => ({ phrase, field, values })))
    .sort((a, b) => b.phrase.length - a.phrase.length)
  const asked = new Map<string, string[]>()
  let rest = ` ${prompt.toLowerCase().replace(/[^\p{L}\p{N}-]+/gu, ' ')} `
  for (let i = 0; i < said.length; ) {
    const { phrase } = said[i]!
    const found = rest.includes(` ${phrase} `)
    // Several fields may be spoken of by the same phrase; a longer phrase takes its words away from shorter ones.
    for (; said[i]?.phrase === phrase; i += 1) {
      if (!found) continue
      const { field, values } = said[i]!
      const both = asked.get(field)?.filter((value) => values.includes(value)) ?? values
      asked.set(field, both.length > 0 ? both : values)
    }
    if (found) rest = rest.replaceAll(` ${phrase} `, ' | ')
  }
  return asked
}

/** Where each field's numbers begin. */
function offsets(fields: ClassifierCard['fields']): Map<string, { start: number; values: string[] }> {
  const out = new Map<string, { start: number; values: string[] }>()
  let start = 0
  for (const { name, values } of fields) {
    out.set(name, { start, values })
    start += values.length
  }
  return out
}

/** The least of the chances that the asked fields have one of their allowed values: all of them must be right. */
export function scoreOf(
  answers: Float32Array,
  asked: ReadonlyMap<string, string[]>,
  fields: ClassifierCard['fields'],
): number {
  const places = offsets(fields)
  let least = 1
  for (const [field, allowed] of asked) {
    const { start, values } = places.get(field)!
    const logits = answers.subarray(start, start + values.length)
    const most = Math.max(...logits)
    let [sum, right] = [0, 0]
    values.forEach((value, k) => {
      const share = Math.exp(logits[k]! - most)
      sum += share
      if (allowed.includes(value)) right += share
    })
    least = Math.min(least, right / sum)
  }
  return least
}

export async function openClassifier(
  card: ClassifierCard,
  beside: (name: string) => string,
  threads: number,
): Promise<PromptScorer> {
  const net = await Net.open(beside(card.net), threads)
  const input = card.input ?? net.input('pixels')
  return {
    threshold: card.threshold,
    async score(pictures, prompts) {
      const scores: (number | undefined)[] = []
      for (let start = 0; start < pictures.length; start += PICTURES_AT_ONCE) {
        const part = pictures.slice(start, start + PICTURES_AT_ONCE)
        const rows = await net.rows({ [input]: await pixelsOf(net, part, card) }, part.length, card.output)
        rows.forEach((row, k) => {
          const asked = askedFor(prompts[start + k]!, card.words)
          scores.push(asked.size > 0 ? scoreOf(row, asked, card.fields) : undefined)
        })
      }
      return scores
    },
    close: () => net.close(),
  }
}

export async function openClip(
  card: ClipCard,
  beside: (name: string) => string,
  threads: number,
): Promise<PromptScorer> {
  const { positions } = card
  const tokenizer = await ClipTokenizer.open(beside(card.tokenizer), { positions })
  const images = await Net.open(beside(card.image), threads)
  const texts = await Net.open(beside(card.text), threads)
  const pixelsInput = card.input ?? images.input('pixel_values', 'pixels')
  const idsInput = texts.input('input_ids')
  const known = new Map<string, Promise<Float32Array>>()

  async function vectorOf(prompt: string): Promise<Float32Array> {
    const ids = tokenizer.padded(tokenizer.tokens(prompt).slice(0, positions - 2))
    const feeds = { [idsInput]: texts.tensor(BigInt64Array.from(ids, BigInt), [1, positions]) }
    if (texts.inputs.includes('attention_mask')) {
      const end = ids.indexOf(tokenizer.eos) + 1
      const mask = BigInt64Array.from(ids, (_, i) => (i < end ? 1n : 0n))
      feeds.attention_mask = texts.tensor(mask, [1, positions])
    }
    const [row] = await texts.rows(feeds, 1, card.textOutput)
    return normalised(row!)
  }

  return {
    threshold: card.threshold,
    async score(pictures, prompts) {
      const scores: number[] = []
      for (let start = 0; start < pictures.length; start += PICTURES_AT_ONCE) {
        const part = pictures.slice(start, start + PICTURES_AT_ONCE)
        const rows = await images.rows({ [pixelsInput]: await pixelsOf(images, part, card) }, part.length, card.output)
        for (const [k, row] of rows.entries()) {
          const prompt = prompts[start + k]!
          if (!known.has(prompt)) known.set(prompt, vectorOf(prompt))
          scores.push(dot(normalised(row), await known.get(prompt)!))
        }
      }
      return scores
    },
    async close() {
      await images.close()
      await texts.close()
    },
  }
}
