import { expect, test } from 'vitest'
import { SwapError } from '../../lib/errors.ts'
import { parseWeights } from '../../lib/prompt/weights.ts'

test.each<[string, [string, number][]]>([
  ['a dog', [['a dog', 1]]],
  ['', []],
  ['()', []],
  [
    'a (dog:1.2) in snow',
    [
      ['a ', 1],
      ['dog', 1.2],
      [' in snow', 1],
    ],
  ],
  ['(dog)', [['dog', 1.1]]],
  ['[dog]', [['dog', 1 / 1.1]]],
  [
    '(a (b:2) c:0.5)',
    [
      ['a ', 0.5],
      ['b', 1],
      [' c', 0.5],
    ],
  ],
  ['((a))', [['a', 1.1 * 1.1]]],
  [
    '(a:.5)(b:2.)(c:0)(d: 3 )',
    [
      ['a', 0.5],
      ['b', 2],
      ['c', 0],
      ['d', 3],
    ],
  ],
  ['\\(a\\) \\[b\\] \\\\ c:2', [['(a) [b] \\ c:2', 1]]],
  ['(\\(a\\):2)', [['(a)', 2]]],
  ['a\\b', [['a\\b', 1]]],
  ['(at 10:30 pm)', [['at 10:30 pm', 1.1]]],
  ['(see: this)', [['see: this', 1.1]]],
  ['[dog:1.5]', [['dog:1.5', 1 / 1.1]]],
  [
    '(a dog):1.5',
    [
      ['a dog', 1.1],
      [':1.5', 1],
    ],
  ],
  ['(<alice>:1.3)', [['<alice>', 1.3]]],
])('%j', (prompt, expected) => {
  const pieces = parseWeights(prompt)
  expect(pieces.map(({ text }) => text)).toEqual(expected.map(([text]) => text))
  for (const [index, [, weight]] of expected.entries()) expect(pieces[index]?.weight).toBeCloseTo(weight, 12)
})

test.each([
  ['a (dog', 'the "(" in "a (dog" is never closed'],
  ['a dog) here', 'the ")" in "a dog) here" closes nothing'],
  ['(a [dog)]', 'the "[" in "(a [dog)]" is closed by another kind'],
  ['(dog:11)', 'not a number from 0 to 10'],
  ['(dog:-1)', 'not a number from 0 to 10'],
  ['(dog:1e3)', 'not a number from 0 to 10'],
  ['((dog:9):9)', 'makes a weight of 81'],
])('%j is refused', (prompt, says) => {
  expect(() => parseWeights(prompt)).toThrow(SwapError)
  expect(() => parseWeights(prompt)).toThrow(says)
})
