// node prompts.mjs FILE [COUNT]: prompts that no training picture has as a whole sentence, and what a classifier must find in their pictures.
// Groups: scene, kind, attribute, held, unseen pair (attribute and place that never occurred together), two people.

import { readFileSync, writeFileSync } from 'node:fs'
import { article } from './captions.mjs'
import { CLOTH, HAIR, TINT_NAMES } from './colors.mjs'
import { HAIR_STYLES, heldOutPair } from './identity.mjs'
import { HAT_NAMES, HELD_NAMES } from './person.mjs'
import { pick, randomFrom } from './random.mjs'
import { ANIMAL_NAMES, OBJECT_NAMES } from './sample.mjs'
import { SCENE_NAMES, SCENES } from './scenes.mjs'

const people = (random) => pick(random, ['person', 'man', 'woman'])
const genderOf = (noun) => (noun === 'person' ? {} : { 'first.gender': noun })
const styles = (noun) => (noun === 'person' ? Object.values(HAIR_STYLES).flat() : HAIR_STYLES[noun])

/** Attributes: the words after "a man", what they mean, and the name by which pairs are held out. */
const ATTRIBUTES = {
  eyes: (random) => {
    const eyes = pick(random, ['sunglasses', 'glasses'])
    return { words: `wearing ${eyes}`, expect: { 'first.eyes': eyes }, key: eyes }
  },
  hat: (random) => {
    const hat = pick(random, HAT_NAMES)
    return { words: `wearing ${article(hat)}`, expect: { 'first.hat': hat }, key: hat }
  },
  hairColor: (random) => {
    const color = pick(random, Object.keys(HAIR))
    return { words: `with ${color} hair`, expect: { 'first.hairColor': color }, key: `${color} hair` }
  },
  beard: () => ({ words: 'with a beard', expect: { 'first.beard': 'beard' }, key: 'beard', noun: 'man' }),
  mouth: (random) => {
    const [words, mouth] = pick(random, [
      ['laughing', 'laugh'],
      ['surprised', 'surprised'],
      ['frowning', 'sad'],
    ])
    return { words, expect: { 'first.mouth': mouth }, key: mouth }
  },
  hair: (random, noun) => {
    const hair = pick(
      random,
      styles(noun).filter((h) => ['long', 'curly', 'short', 'pigtails', 'mohawk'].includes(h)),
    )
    const words = hair === 'pigtails' ? 'with pigtails' : hair === 'mohawk' ? 'with a mohawk' : `with ${hair} hair`
    return { words, expect: { 'first.hair': hair }, key: hair }
  },
  shirt: (random) => {
    const color = pick(random, Object.keys(CLOTH))
    return { words: `wearing ${article(`${color} shirt`)}`, expect: { 'first.cloth': color }, key: `${color} shirt` }
  },
}

const place = (random, scene) => pick(random, SCENES[scene].there)
const start = (random) => pick(random, ['a photo of ', 'a picture of ', ''])

function someone(random, names) {
  const kind = pick(random, names)
  const wanted = people(random)
  const found = ATTRIBUTES[kind](random, wanted)
  const noun = found.noun ?? wanted
  return { text: `${article(noun)} ${found.words}`, expect: { ...genderOf(noun), ...found.expect }, key: found.key }
}

const GROUPS = {
  scene(random) {
    const scene = pick(random, SCENE_NAMES)
    const { text } = someone(random, Object.keys(ATTRIBUTES))
    return { text: `${text} ${place(random, scene)}`, expect: { 'picture.scene': scene } }
  },
  kind(random) {
    const scene = pick(random, SCENE_NAMES)
    const kind = pick(random, ['person', ...ANIMAL_NAMES, ...OBJECT_NAMES])
    if (kind === 'person') {
      const { text } = someone(random, Object.keys(ATTRIBUTES))
      return { text: `${text} ${place(random, scene)}`, expect: { 'picture.kind': 'person' } }
    }
    const color = random() < 0.6 ? `${pick(random, TINT_NAMES)} ` : ''
    const expect = { 'picture.kind': ANIMAL_NAMES.includes(kind) ? 'animal' : 'object', 'thing.kind': kind }
    return { text: `${article(color + kind)} ${place(random, scene)}`, expect }
  },
  attribute(random) {
    const { text, expect } = someone(random, Object.keys(ATTRIBUTES))
    return { text, expect }
  },
  held(random) {
    const held = pick(random, HELD_NAMES)
    const scene = pick(random, SCENE_NAMES)
    if (heldOutPair(held, scene)) return GROUPS.held(random)
    return {
      text: `${article(people(random))} holding ${article(held)} ${place(random, scene)}`,
      expect: { 'first.holds': held },
    }
  },
  'unseen pair'(random) {
    for (;;) {
      const { text, expect, key } = someone(random, ['eyes', 'hat', 'hairColor', 'beard'])
      const scene = pick(random, SCENE_NAMES)
      if (heldOutPair(key, scene))
        return { text: `${text} ${place(random, scene)}`, expect: { ...expect, 'picture.scene': scene } }
    }
  },
  'two people'(random) {
    const scene = pick(random, SCENE_NAMES)
    const both = () =>
      `${someone(random, Object.keys(ATTRIBUTES)).text} and ${someone(random, Object.keys(ATTRIBUTES)).text}`
    const words = random() < 0.2 ? pick(random, ['two people', 'a man and a woman', 'two men', 'two women']) : both()
    return { text: `${words} ${place(random, scene)}`, expect: { 'picture.kind': 'two people' } }
  },
}

const [file, count = '500', ...shards] = process.argv.slice(2)
const known = new Set(
  shards.flatMap((s) =>
    readFileSync(s, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line).caption),
  ),
)
const names = Object.keys(GROUPS)
const prompts = []
for (let seed = 700_000_000; prompts.length < Number(count); seed++) {
  const random = randomFrom(seed)
  const group = names[prompts.length % names.length]
  const { text, expect } = GROUPS[group](random)
  const prompt = start(random) + text
  if (known.has(prompt)) continue
  known.add(prompt)
  prompts.push({ group, prompt, expect })
}
writeFileSync(file, `${JSON.stringify(prompts, null, 1)}\n`)
