/** How alike the pictures of a subject are to its photo, and how well they show their prompts. */

import { join } from 'node:path'
import * as v from 'valibot'
import { DisposedError, SwapError } from '../errors.ts'
import type { ImageInput } from '../image/index.ts'
import { image as imageSchema, parseOptions } from '../options.ts'
import { packageRoot } from '../paths.ts'
import { type Card, readCard } from './card.ts'
import { type Estimate, estimate } from './figures.ts'
import { dot, normalised, pixelsOf } from './pixels.ts'
import { Net } from './runtime.ts'
import { openClassifier, openClip, type PromptScorer } from './scorers.ts'

const path = v.pipe(v.string('must be a path'), v.minLength(1, 'must be a path'))

const openEvaluatorSchema = v.strictObject(
  {
    /** The card of the net that tells persons apart. Default: the embedded one, for the embedded model's pictures. */
    identity: v.optional(path),
    /** The card of the net that scores prompts, a classifier or CLIP. Default: the embedded classifier. */
    prompt: v.optional(path),
    /** CPU threads of each net. */
    threads: v.optional(
      v.pipe(
        v.number('must be a whole number from 1 to 1024'),
        v.integer('must be a whole number from 1 to 1024'),
        v.minValue(1, 'must be a whole number from 1 to 1024'),
        v.maxValue(1024, 'must be a whole number from 1 to 1024'),
      ),
      1,
    ),
  },
  'must be an object',
)

const prompt = v.pipe(v.string('must be a text'), v.maxLength(10_000, 'must have at most 10,000 characters'))
const evaluateSchema = v.strictObject(
  {
    /** The photo that the subject was learnt from. */
    photo: imageSchema,
    /** Pictures of the subject, each with the prompt that it should show: with the class word in the subject's place. */
    pictures: v.pipe(
      v.array(v.strictObject({ image: imageSchema, prompt }, 'must be { image, prompt }'), 'must be a list'),
      v.minLength(1, 'must not be empty'),
    ),
  },
  'must be an object',
)

/** Options of {@link Evaluator.open}. */
export interface EvaluatorOptions extends v.InferInput<typeof openEvaluatorSchema> {}
/** Options of {@link Evaluator.evaluate}. */
export interface EvaluateOptions extends v.InferInput<typeof evaluateSchema> {}

/** What is said of one picture. */
export interface PictureScores {
  /** Cosine between the identity vectors of photo and picture: 1 the same, about 0 strangers. */
  identity: number
  /** Undefined where the prompt asks for nothing that the net knows. */
  prompt: number | undefined
  /** True where the prompt score reaches its threshold. */
  passes: boolean
}

/** What is said of all pictures of one subject. */
export interface Evaluation {
  pictures: PictureScores[]
  identity: Estimate | undefined
  prompt: Estimate | undefined
  /** Share of the pictures whose prompt score reaches its threshold. */
  passed: Estimate | undefined
  /** ID(P), this package's own figure: the mean of identity over the pictures that pass. Undefined where none does. */
  idp: Estimate | undefined
}

/** @internal Sums up pictures of several subjects, a list each. */
export function summarise(subjects: readonly (readonly PictureScores[])[]): Omit<Evaluation, 'pictures'> {
  const known = subjects.map((pictures) => pictures.filter((picture) => picture.prompt !== undefined))
  return {
    identity: estimate(subjects.map((pictures) => pictures.map(({ identity }) => identity))),
    prompt: estimate(known.map((pictures) => pictures.map((picture) => picture.prompt!))),
    passed: estimate(known.map((pictures) => pictures.map(({ passes }) => (passes ? 1 : 0)))),
    idp: estimate(known.map((pictures) => pictures.filter(({ passes }) => passes).map(({ identity }) => identity))),
  }
}

interface Parts {
  identity: Net
  card: Extract<Card, { kind: 'identity' }>
  scorer: PromptScorer
}

/** The embedded nets' cards. */
const embedded = (name: string): string => join(packageRoot(), 'models', 'measure', `${name}.json`)

function wrongKind(path: string, kind: string, needed: string): SwapError {
  return new SwapError('SWAP_EVALUATE_CARD', `"${path}" is the card of a net of the kind '${kind}'`, {
    hint: `give one of the kind ${needed}`,
  })
}

/**
 * Nets that measure pictures of learnt subjects. Needs the package `onnxruntime-node`.
 *
 * The embedded nets know the embedded model's drawn world only; for real photos, name the cards of real ones.
 *
 * @example
 * const evaluator = await Evaluator.open()
 * const { identity, prompt, idp } = await evaluator.evaluate({
 *   photo: 'me.png',
 *   pictures: [{ image: 'beach.png', prompt: 'a photo of a person at the beach' }],
 * })
 * await evaluator.close()
 */
export class Evaluator implements AsyncDisposable {
  readonly #parts: Parts
  #closed = false

  private constructor(parts: Parts) {
    this.#parts = parts
  }

  /**
   * Opens the nets.
   *
   * @throws SwapError `SWAP_EVALUATE_RUNTIME` (npm install onnxruntime-node), `SWAP_EVALUATE_CARD`, `SWAP_EVALUATE_NET`,
   *   `SWAP_FILE_…`, `SWAP_OPTION_…`
   */
  static async open(options: EvaluatorOptions = {}): Promise<Evaluator> {
    const { threads, ...cards } = parseOptions(openEvaluatorSchema, options, 'Evaluator.open()')
    const { identity = embedded('identity'), prompt = embedded('classifier') } = cards
    const [who, what] = [await readCard(identity), await readCard(prompt)]
    if (who.card.kind !== 'identity') throw wrongKind(identity, who.card.kind, "'identity'")
    if (what.card.kind === 'identity') throw wrongKind(prompt, what.card.kind, "'classifier' or 'clip'")
    const net = await Net.open(who.beside(who.card.net), threads)
    const scorer =
      what.card.kind === 'clip'
        ? await openClip(what.card, what.beside, threads)
        : await openClassifier(what.card, what.beside, threads)
    return new Evaluator({ identity: net, card: who.card, scorer })
  }

  /** Sums up the scores of several subjects, a list each: intervals are over subjects. */
  static summarise(subjects: readonly (readonly PictureScores[])[]): Omit<Evaluation, 'pictures'> {
    return summarise(subjects)
  }

  /** A picture shows its prompt from this score on. */
  get promptThreshold(): number {
    return this.#parts.scorer.threshold
  }

  /** The identity vectors of pictures, each of length 1. */
  async embed(pictures: readonly ImageInput[]): Promise<Float32Array[]> {
    this.#check()
    const { identity, card } = this.#parts
    const vectors: Float32Array[] = []
    for (const picture of pictures) {
      const feeds = { [card.input ?? identity.input('pixels')]: await pixelsOf(identity, [picture], card) }
      const [row] = await identity.rows(feeds, 1, card.output)
      vectors.push(normalised(row!))
    }
    return vectors
  }

  /**
   * Scores pictures of one subject.
   *
   * @throws SwapError `SWAP_IMAGE_…`, `SWAP_EVALUATE_NET`, `SWAP_OPTION_…`, a `DisposedError`
   */
  async evaluate(options: EvaluateOptions): Promise<Evaluation> {
    this.#check()
    const { photo, pictures } = parseOptions(evaluateSchema, options, 'evaluate()')
    const images = pictures.map(({ image }) => image)
    const [own, ...others] = await this.embed([photo, ...images])
    const { scorer } = this.#parts
    const prompts = await scorer.score(
      images,
      pictures.map((picture) => picture.prompt),
    )
    const scores = others.map((vector, k): PictureScores => {
      const score = prompts[k]
      return { identity: dot(own!, vector), prompt: score, passes: score !== undefined && score >= scorer.threshold }
    })
    // Pictures of one subject: each is a group of its own, the interval is over its pictures.
    return { pictures: scores, ...summarise(scores.map((picture) => [picture])) }
  }

  #check(): void {
    if (this.#closed) throw new DisposedError('the evaluator', 'open a new one with Evaluator.open()')
  }

  /** Gives the memory back. May be called again. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#parts.identity.close()
    await this.#parts.scorer.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}
