// node people.mjs DIR [COUNT] [--inked N] [--things N] [--from SEED]
// Subjects that no training picture shows, one photo each (DIR/0.png ...), and people.json about them: people of held-out
// combinations, then N people of the held-out style, then N animals and things whose drawings the world does not have.
// From another seed, other people: for choosing settings, so that the ones that are reported were never looked at.

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { newIdentity, newInkedIdentity } from './identity.mjs'
import { randomFrom } from './random.mjs'
import { renderPng } from './render.mjs'
import { sample } from './sample.mjs'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    inked: { type: 'string', default: '0' },
    things: { type: 'string', default: '0' },
    from: { type: 'string', default: '600000000' },
  },
})
const [folder, count = '8'] = positionals
const [people, inked, things] = [count, values.inked, values.things].map(Number)
const from = Number(values.from)

/** Drawings of the two emoji sets that pictures of the world never show, and their class words. */
const NEW_THINGS = [
  ['dog', 'poodle'],
  ['bear', 'panda'],
  ['cat', 'tiger-face'],
  ['car', 'taxi'],
  ['toy', 'robot'],
  ['bear', 'koala'],
  ['dog', 'fox'],
  ['car', 'fire-engine'],
]

const PLAIN = { split: 'test', scene: 'plain', framing: 'usual', style: 'picture', night: false }
const photos = []
const add = (described, seed, choices) => {
  writeFileSync(join(folder, `${photos.length}.png`), renderPng(sample(seed, { ...PLAIN, ...choices })))
  photos.push(described)
}

mkdirSync(folder, { recursive: true })
for (let i = 0; i < people + inked; i++) {
  const random = randomFrom(from + i)
  const made = i < people ? newIdentity(random, true) : newInkedIdentity(random)
  const who = { ...made, glasses: false }
  const look = { eyes: 'open', mouth: who.mouth, hat: null, holds: null }
  const { hairHex, skinHex, clothHex, nose, body, mouth, glasses, earring, ...known } = who
  add(known, from + i, { kind: 'person', who, look })
}
for (let i = 0; i < things; i++) {
  const [kind, drawing] = NEW_THINGS[i % NEW_THINGS.length]
  const art = i < NEW_THINGS.length ? 'flat' : 'noto'
  const animal = ['cat', 'dog', 'bear'].includes(kind)
  add({ kind, drawing }, from + 1000 + i, {
    kind: animal ? 'animal' : 'object',
    thing: { kind, drawing, art, tint: null },
  })
}
writeFileSync(join(folder, 'people.json'), `${JSON.stringify(photos, null, 1)}\n`)
