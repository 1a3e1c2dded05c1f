// node check.mjs [COUNT]: asks the world to keep its promises, over many seeds without rendering.
// Same seed, same picture; nothing held out is ever drawn; every noun is in the caption; every class word occurs.

import { strict as assert } from 'node:assert'
import { heldOutPair, heldOutPerson, NAMED, UNDER_HAT } from './identity.mjs'
import { renderMasks, renderPicture } from './render.mjs'
import { attributesOf, sample } from './sample.mjs'

const count = Number(process.argv[2] ?? 20000)
const words = new Map()
for (let seed = 0; seed < count; seed++) {
  const drawn = sample(seed)
  for (const { who, look } of drawn.made.people) {
    assert(!who.drawing, `${seed}: the held-out style`)
    const seen = look.hat ? (UNDER_HAT[who.hair] ?? who.hair) : who.hair
    assert(!heldOutPerson(who.hair, who.hairColor, who.skin) && !heldOutPerson(seen, who.hairColor, who.skin))
    for (const a of attributesOf({ who, look })) assert(!heldOutPair(a, drawn.made.scene), `${seed}: ${a}`)
  }
  const caption = drawn.caption.split(/[ -]/)
  for (const [word] of drawn.words) assert(caption.includes(word), `${seed}: "${word}" in "${drawn.caption}"`)
  for (const word of new Set(caption)) words.set(word, (words.get(word) ?? 0) + 1)
}
for (const seed of [1, 17, 4242]) {
  assert.deepEqual(renderPicture(sample(seed)), renderPicture(sample(seed)))
  assert.deepEqual(renderMasks(sample(seed)), renderMasks(sample(seed)))
}
for (let seed = 0; seed < 500; seed++)
  for (const { who } of sample(seed, { split: 'test', kind: 'person' }).made.people)
    assert(heldOutPerson(who.hair, who.hairColor, who.skin))
for (let seed = 0; seed < 200; seed++)
  for (const { who } of sample(seed, { split: 'inked', kind: 'two people' }).made.people)
    assert.equal(who.drawing, 'inked')
const needed = ['person', 'man', 'woman', 'cat', 'dog', 'bear', 'rabbit', 'car', 'chair', 'toy', ...Object.keys(NAMED)]
for (const word of needed) assert(words.get(word) > count / 2000, `${word}: ${words.get(word)}`)
console.log(`${count} seeds, ${words.size} words; rarest:`, [...words].sort((a, b) => a[1] - b[1]).slice(0, 8))
