/** Prompts to questions, answers to scores, scores to figures: no net is needed for these. */
import { expect, test } from 'vitest'
import { type PictureScores, summarise } from '../../lib/evaluate/evaluator.ts'
import { estimate } from '../../lib/evaluate/figures.ts'
import { askedFor, scoreOf } from '../../lib/evaluate/scorers.ts'

const WORDS = [
  { says: ['glasses'], field: 'eyes', values: ['glasses'] },
  { says: ['sunglasses'], field: 'eyes', values: ['sunglasses'] },
  { says: ['person', 'man'], field: 'kind', values: ['person', 'both'] },
  { says: ['dog'], field: 'kind', values: ['animal', 'both'] },
  { says: ['red dog'], field: 'tint', values: ['red'] },
  { says: ['red hair'], field: 'hair', values: ['red'] },
  { says: ['red hair ribbon'], field: 'ribbon', values: ['yes'] },
]

test('a prompt asks for what its words say, longer phrases first, whole words only', () => {
  expect(askedFor('A photo of a man, wearing Sunglasses.', WORDS)).toEqual(
    new Map([
      ['eyes', ['sunglasses']],
      ['kind', ['person', 'both']],
    ]),
  )
  expect(askedFor('a red hair ribbon', WORDS)).toEqual(new Map([['ribbon', ['yes']]]))
  expect(askedFor('a mandog', WORDS).size).toBe(0)
})

test('words that speak of one field leave what all of them allow', () => {
  expect(askedFor('a person and a dog', WORDS).get('kind')).toEqual(['both'])
})

test('a score is the least chance among what is asked, over all allowed values', () => {
  const fields = [
    { name: 'kind', values: ['person', 'animal', 'both'] },
    { name: 'eyes', values: ['glasses', 'sunglasses'] },
  ]
  const answers = Float32Array.from([Math.log(0.5), Math.log(0.1), Math.log(0.4), Math.log(0.3), Math.log(0.7)])
  const asked = (entries: [string, string[]][]): number => scoreOf(answers, new Map(entries), fields)
  expect(asked([['kind', ['person', 'both']]])).toBeCloseTo(0.9, 5)
  expect(
    asked([
      ['kind', ['person', 'both']],
      ['eyes', ['sunglasses']],
    ]),
  ).toBeCloseTo(0.7, 5)
})

test('an interval is over groups: pictures of one subject do not make it narrower', () => {
  const apart = estimate([[0], [1], [0], [1], [0], [1]])!
  const repeated = estimate([0, 1, 0, 1, 0, 1].map((value) => Array<number>(50).fill(value)))!
  expect(apart.mean).toBeCloseTo(0.5)
  expect(repeated).toEqual({ ...apart, count: 300 })
  expect(apart.low).toBeLessThan(0.2)
  expect(apart.high).toBeGreaterThan(0.8)
  expect(estimate([[], []])).toBeUndefined()
})

test('ID(P) is the likeness of the pictures that pass, and of no others', () => {
  const picture = (identity: number, prompt: number | undefined): PictureScores => ({
    identity,
    prompt,
    passes: prompt !== undefined && prompt >= 0.5,
  })
  const sums = summarise([
    [picture(0.9, 0.8), picture(0.1, 0.2)],
    [picture(0.5, 0.5), picture(0.3, undefined)],
  ])
  expect(sums.idp).toMatchObject({ mean: 0.7, count: 2 })
  expect(sums.identity).toMatchObject({ mean: 0.45, count: 4 })
  expect(sums.passed!.mean).toBeCloseTo(2 / 3)
  expect(summarise([[picture(0.9, 0.1)]]).idp).toBeUndefined()
})
