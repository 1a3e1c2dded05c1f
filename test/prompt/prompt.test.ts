import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import type { SwapError } from '../../lib/errors.ts'
import {
  ClipTokenizer,
  checkClass,
  classTemplates,
  encodePrompt,
  placeholders,
  templatesFor,
} from '../../lib/prompt/index.ts'

let tokenizer: ClipTokenizer
beforeAll(async () => {
  const folder = fileURLToPath(new URL('../../models/mini/tokenizer', import.meta.url))
  tokenizer = await ClipTokenizer.open(folder, { positions: 77 })
})

const alice = { name: 'alice', classWord: 'person', tokens: 1 }
const rex = { name: 'rex', classWord: 'dog', tokens: 1 }
const encode = (text: string, ...subjects: (typeof alice)[]) => encodePrompt([tokenizer], text, subjects)
const ids = (text: string) => encode(text).ids

function failure(run: () => unknown): SwapError {
  try {
    run()
  } catch (error) {
    return error as SwapError
  }
  throw new Error('nothing was thrown')
}

describe('a prompt', () => {
  test('begins, ends, and is padded to the positions', () => {
    const [list] = ids('a photo')
    expect(list).toHaveLength(77)
    expect(list!.slice(0, 5)).toEqual([tokenizer.bos, ...tokenizer.tokens('a photo'), tokenizer.eos, tokenizer.pad])
    expect(ids('')[0]!.slice(0, 3)).toEqual([tokenizer.bos, tokenizer.eos, tokenizer.pad])
  })

  test('has the class word where the placeholder stands, and says where', () => {
    const { ids: list, slots } = encode('a photo of <alice> at the beach', alice)
    expect(list).toEqual(ids('a photo of person at the beach'))
    expect(slots).toEqual([{ subject: 0, position: 4 }])
  })

  test.each([
    ['<alice>', 'person', [1]],
    ['<alice> and <alice>', 'person and person', [1, 3]],
    ['two:<alice>,<alice>s<alice>', 'two: person , person s person', [3, 5, 7]],
    ["<alice>'s hat", "person 's hat", [1]],
    ['  <alice>\n', 'person', [1]],
  ])('%j reads as %j', (text, plain, positions) => {
    const { ids: list, slots } = encode(text, alice)
    expect(list).toEqual(ids(plain))
    expect(slots.map(({ position }) => position)).toEqual(positions)
  })

  test('takes any number of subjects in any order', () => {
    const { ids: list, slots } = encode('<rex> and <alice> and <rex>', alice, rex)
    expect(list).toEqual(ids('dog and person and dog'))
    expect(slots).toEqual([
      { subject: 1, position: 1 },
      { subject: 0, position: 3 },
      { subject: 1, position: 5 },
    ])
  })

  test('counts every token of a class word of several', () => {
    const bear = { name: 'ted', classWord: 'yellow bear', tokens: 2 }
    const { ids: list, slots } = encode('<ted> and <alice>', bear, alice)
    expect(list).toEqual(ids('yellow bear and person'))
    expect(slots).toEqual([
      { subject: 0, position: 1 },
      { subject: 1, position: 4 },
    ])
  })

  test.each(['alice-2', 'a', 'al_ice', 'Ümit', '猫', 'person', 'two words', '3', 'a.b', 'x'.repeat(64)])(
    'knows a subject of the name %s',
    (name) => {
      const subject = { ...alice, name }
      expect(placeholders(`one <${name}> two`)).toEqual([name])
      expect(encode(`a photo of <${name}>`, subject).ids).toEqual(ids('a photo of person'))
      expect(failure(() => encode(`a photo of <${name}>`)).code).toBe('SWAP_PROMPT_UNKNOWN_SUBJECT')
    },
  )

  test('tells names apart that begin alike or differ in case', () => {
    const subjects = [alice, { ...rex, name: 'alice2' }]
    expect(encode('<alice2> <alice>', ...subjects).slots.map(({ subject }) => subject)).toEqual([1, 0])
    expect(failure(() => encode('<Alice>', alice)).message).toContain('<Alice>')
  })

  test('finds a name whatever way its accents are written', () => {
    expect(encode('<ame\u0301lie>', { ...alice, name: 'amélie' }).slots).toHaveLength(1)
  })

  test.each(['i <3 you', 'a < b and b > c', '<> <', '1<2', '<|endoftext|>', 'x > y < z'])(
    '%j has no placeholder',
    (text) => {
      expect(placeholders(text)).toEqual([])
      expect(encode(text, alice).slots).toEqual([])
    },
  )

  test('with an unknown name says which, and which there are', () => {
    const error = failure(() => encode('<bob> and <alice>', alice, rex))
    expect(error.code).toBe('SWAP_PROMPT_UNKNOWN_SUBJECT')
    expect(error.message).toContain('<bob>')
    expect(error.message).toContain('<alice>, <rex>')
    expect(failure(() => encode('<bob>')).message).toContain('no subject')
  })

  test('may fill the positions, and says how much is too much', () => {
    expect(encode('photo '.repeat(75)).ids[0]!.at(-1)).toBe(tokenizer.eos)
    const error = failure(() => encode('photo '.repeat(80)))
    expect(error.code).toBe('SWAP_PROMPT_TOO_LONG')
    expect(error.message).toContain('80 tokens, 5 more than the 75')
    expect(failure(() => encode(`<alice> ${'photo '.repeat(75)}`, alice)).message).toContain('76 tokens, 1 more')
  })

  test('with a subject of another tokenizer is an error', () => {
    const error = failure(() => encode('<alice>', { ...alice, tokens: 3 }))
    expect(error.code).toBe('SWAP_PROMPT_CLASS_TOKENS')
    expect(error.message).toContain('3 vectors')
  })

  test('is tokenized once for every text encoder', () => {
    const { ids: lists, slots } = encodePrompt([tokenizer, tokenizer], '<alice>', [alice])
    expect(lists).toHaveLength(2)
    expect(lists[0]).toEqual(lists[1])
    expect(slots).toHaveLength(1)
  })
})

describe('learning prompts', () => {
  test('are the reference prompts, and know where the class word is', () => {
    const { templates, classTokens, texts } = classTemplates([tokenizer], 'person')
    expect(classTokens).toBe(1)
    expect(texts).toContain('a photo of the face of person')
    expect(templates).toHaveLength(texts.length)
    for (const [index, { ids: list, position }] of templates.entries()) {
      expect(list).toEqual(ids(texts[index]!))
      expect([list[0]![position]]).toEqual(tokenizer.tokens('person'))
    }
  })

  test('speak of faces for people only', () => {
    expect(templatesFor('Old Woman').join()).toContain('face')
    expect(templatesFor('dog').join()).not.toContain('face')
    for (const word of ['person', 'dog']) {
      for (const template of templatesFor(word)) expect(template.split('{}')).toHaveLength(2)
    }
  })

  test('may be given', () => {
    const { templates, texts, classTokens } = classTemplates([tokenizer], 'yellow bear', ['{} in the snow', 'a <b> {}'])
    expect(classTokens).toBe(2)
    expect(texts).toEqual(['yellow bear in the snow', 'a <b> yellow bear'])
    expect(templates[0]).toEqual({ ids: ids('yellow bear in the snow'), position: 1 })
    expect(templates[1]!.ids[0]!.slice(templates[1]!.position).slice(0, 2)).toEqual(ids('yellow bear')[0]!.slice(1, 3))
  })

  test.each([[['a photo']], [['{} and {}']], [[]]])('%j are refused', (templates) => {
    expect(failure(() => classTemplates([tokenizer], 'person', templates)).code).toBe('SWAP_PROMPT_TEMPLATE')
  })

  test('that are too long are refused', () => {
    const error = failure(() => classTemplates([tokenizer], 'person', [`{} ${'photo '.repeat(75)}`]))
    expect(error.code).toBe('SWAP_PROMPT_TOO_LONG')
    expect(error.message).toContain('1 more')
  })

  test.each(['chinchilla', 'xylophone', '', '  ', '<|endoftext|>', '猫', 'xyz'])(
    'of the class %j are refused',
    (word) => {
      const error = failure(() => classTemplates([tokenizer], word))
      expect(error.code).toBe('SWAP_PROMPT_UNKNOWN_CLASS')
      expect(error.message).toContain(`"${word}"`)
    },
  )

  test('of a class that a model of few words does not list are refused, though its pieces are known', () => {
    const known = ['person', 'dog']
    for (const word of ['person', 'old Person', ' dog ']) expect(() => checkClass(word, known)).not.toThrow()
    expect(() => checkClass('boy', undefined)).not.toThrow()
    const error = failure(() => checkClass('boy', known))
    expect(error.code).toBe('SWAP_PROMPT_UNKNOWN_CLASS')
    expect(error.hint).toContain('person, dog')
  })

  test('of an unknown class name the pieces', () => {
    const pieces = tokenizer.pieces('chinchilla')
    expect(pieces.length).toBeGreaterThan(4)
    for (const piece of pieces) {
      expect(failure(() => classTemplates([tokenizer], 'chinchilla')).message).toContain(`"${piece}"`)
    }
  })
})
