import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import type { SwapError } from '../../lib/errors.ts'
import {
  ClipTokenizer,
  checkClass,
  classTemplates,
  encodePrompt,
  encodePrompts,
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

/** The positions between begin and end of each chunk, without the padding. */
function chunksOf({ ids: [list] }: { ids: number[][] }): number[][] {
  return Array.from({ length: list!.length / 77 }, (_, index) => {
    const chunk = list!.slice(77 * index, 77 * (index + 1))
    expect(chunk[0]).toBe(tokenizer.bos)
    const end = chunk.indexOf(tokenizer.eos, 1)
    expect(chunk.slice(end + 1).every((id) => id === tokenizer.pad)).toBe(true)
    return chunk.slice(1, end)
  })
}

describe('a long prompt', () => {
  test('takes as many chunks as it needs, each with its own begin and end', () => {
    expect(chunksOf(encode('photo '.repeat(75))).map(({ length }) => length)).toEqual([75])
    expect(chunksOf(encode('photo '.repeat(76))).map(({ length }) => length)).toEqual([75, 1])
    const text = Array.from({ length: 200 }, (_, index) => ['photo', 'red', 'a'][index % 3]).join(' ')
    expect(chunksOf(encode(text)).flat()).toEqual(tokenizer.tokens(text))
  })

  test('divides no word', () => {
    const word = tokenizer.tokens('chinchilla')
    const chunks = chunksOf(encode(`${'photo '.repeat(73)}chinchilla photo`))
    expect(chunks.map(({ length }) => length)).toEqual([73, word.length + 1])
    expect(chunks[1]!.slice(0, word.length)).toEqual(word)
  })

  test('divides a word that is longer than a chunk', () => {
    const word = 'qz'.repeat(90)
    const chunks = chunksOf(encode(`a ${word}`))
    expect(chunks.flat()).toEqual(tokenizer.tokens(`a ${word}`))
    expect(chunks[1]).toHaveLength(75)
  })

  test('keeps a subject together, and counts its position over the chunks', () => {
    const pair = { name: 'pair', classWord: 'yellow bear', tokens: 2 }
    const { ids: list, slots } = encode(`${'photo '.repeat(74)}<pair> and <alice>`, alice, pair)
    expect(slots).toEqual([
      { subject: 1, position: 78 },
      { subject: 0, position: 81 },
    ])
    expect(list[0]!.slice(78, 80)).toEqual(tokenizer.tokens('yellow bear'))
  })

  test('ends somewhere, and says where', () => {
    expect(chunksOf(encode('photo '.repeat(75 * 16)))).toHaveLength(16)
    const error = failure(() => encode('photo '.repeat(75 * 16 + 1)))
    expect(error.code).toBe('SWAP_PROMPT_TOO_LONG')
    expect(error.message).toContain('1201 tokens, which take 17 chunks')
  })

  test('has a negative prompt of its length beside it', () => {
    const both = (prompt: string, negative: string, weights = false) =>
      encodePrompts([tokenizer], { prompt, negative }, [], { weights })
    const { prompt, negative } = both('photo '.repeat(160), 'a (dog:2)', true)
    expect(chunksOf(negative).map(({ length }) => length)).toEqual([2, 0, 0])
    expect(prompt.ids[0]).toHaveLength(3 * 77)
    expect(negative.weights).toHaveLength(3 * 77)
    expect([...negative.weights!].filter((weight) => weight !== 1)).toEqual([2])
    expect(chunksOf(both('a', 'dog '.repeat(80)).prompt).map(({ length }) => length)).toEqual([1, 0])
  })
})

describe('weights', () => {
  const weighed = (text: string, ...subjects: (typeof alice)[]) =>
    encodePrompt([tokenizer], text, subjects, { weights: true })

  test('stand at the tokens of their words, a subject among them', () => {
    const { ids: list, slots, weights } = weighed('a (photo of <alice>:1.5) [dog]', alice)
    expect(list).toEqual(ids('a photo of person dog'))
    expect(slots).toEqual([{ subject: 0, position: 4 }])
    expect([...weights!.slice(0, 7)]).toEqual([1, 1, 1.5, 1.5, 1.5, Math.fround(1 / 1.1), 1])
  })

  test('are left out where all are 1', () => {
    expect(weighed('a photo').weights).toBeUndefined()
    expect(weighed('a (photo:1)').weights).toBeUndefined()
    expect(encode('a (photo:1.5)').weights).toBeUndefined()
    expect(encode('a (photo:1.5)').ids).not.toEqual(ids('a photo'))
  })

  test('go along into other chunks', () => {
    const { weights } = weighed(`${'photo '.repeat(74)}(dog dog:0.5)`)
    expect([weights![75], weights![76], weights![77], weights![78], weights![79]]).toEqual([0.5, 1, 1, 0.5, 1])
  })
})

describe('isolation', () => {
  const isolated = (text: string) =>
    encodePrompt([tokenizer], text, [alice, { ...rex, name: 'style', classWord: undefined }], { isolate: true }).isolate

  test('is of a prompt with subjects, each of which has a class word', () => {
    expect(isolated('a photo of <alice> and a dog')).toBe(true)
    expect(isolated('a photo of a dog')).toBeUndefined()
    expect(isolated('<style>, a dog')).toBeUndefined()
    expect(isolated('a photo of <alice> and a dog, <style>')).toBeUndefined()
    expect(encode('a photo of <alice>', alice).isolate).toBeUndefined()
  })
})

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

  test('of a class in pieces come with a warning', () => {
    const warnings = (word: string) => classTemplates([tokenizer], word).warnings
    expect(warnings('yellow bear')).toEqual([])
    const known = ['catdog', 'dogman', 'bearman'].find((word) => tokenizer.tokens(word).length === 2)!
    expect(warnings(known)).toEqual([expect.stringContaining(`"${known}"`)])
  })

  test('of an unknown class name the pieces', () => {
    const pieces = tokenizer.pieces('chinchilla')
    expect(pieces.length).toBeGreaterThan(4)
    for (const piece of pieces) {
      expect(failure(() => classTemplates([tokenizer], 'chinchilla')).message).toContain(`"${piece}"`)
    }
  })
})
