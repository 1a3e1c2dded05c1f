// Who a person is: everything that stays the same from picture to picture.

import { CLOTH, HAIR, jitter, SKIN } from './colors.mjs'
import { hash, pick, randomFrom } from './random.mjs'

export const HAIR_STYLES = {
  woman: ['long', 'bob', 'pigtails', 'curly', 'bun'],
  man: ['short', 'buzzcut', 'bald', 'mohawk', 'high-top'],
}
export const BEARDS = ['beard', 'mustache']

/** Under a hat, hair that stands up is drawn as its flat relative. */
export const UNDER_HAT = { mohawk: 'short', 'high-top': 'short', bun: 'bob', curly: 'bob' }

/** Hair so short that its colour hardly shows: captions do not speak of it. */
export const hasHairColor = (who) => !['bald', 'buzzcut', 'shaved'].includes(who.hair)

/** Combinations that no training picture shows, whatever else is changed about a person. */
export const heldOutPerson = (hair, hairColor, skin) => hash(`${hair}|${hairColor}|${skin}`) % 10 === 0

/** Attributes that no training picture shows in this scene. */
export const heldOutPair = (attribute, scene) => hash(`${attribute}@${scene}`) % 12 === 0

export function newIdentity(random, heldOut = false) {
  for (;;) {
    const gender = pick(random, ['woman', 'man'])
    const hair = pick(random, HAIR_STYLES[gender])
    const hairColor = pick(random, Object.keys(HAIR))
    const skin = pick(random, Object.keys(SKIN))
    if (heldOutPerson(hair, hairColor, skin) !== heldOut) continue
    const cloth = pick(random, Object.keys(CLOTH))
    return {
      gender,
      hair,
      hairColor,
      skin,
      cloth,
      beard: gender === 'man' && random() < 0.4 ? (random() < 0.65 ? 'beard' : 'mustache') : null,
      old: hairColor === 'white' && random() < 0.5,
      glasses: random() < 0.12,
      hairHex: jitter(HAIR[hairColor], random),
      skinHex: jitter(SKIN[skin], random, 0.02),
      clothHex: jitter(CLOTH[cloth], random),
      nose: pick(random, ['mediumRound', 'smallRound']),
      body: pick(random, ['squared', 'rounded', 'rounded', 'checkered']),
      mouth: pick(random, ['smile', 'smile', 'smile', 'laugh', 'sad']),
    }
  }
}

const INK_HAIR = { woman: ['waves', 'pixie', 'fringe'], man: ['quiff', 'crest', 'fringe', 'turban', 'shaved'] }

/** Somebody of the style of people that no training picture shows: inked outlines, heads half turned. */
export function newInkedIdentity(random) {
  const gender = pick(random, ['woman', 'man'])
  const base = newIdentity(random, false)
  const hair = pick(random, INK_HAIR[gender])
  return {
    ...base,
    drawing: 'inked',
    gender,
    hair,
    beard: gender === 'man' && random() < 0.4 ? 'beard' : null,
    old: false,
    nose: pick(random, ['curve', 'pointed', 'tound']),
    body: pick(random, ['open', 'crew', 'collared']),
    earring: gender === 'woman' && random() < 0.5,
  }
}

const NAMES =
  'anna ben carl dora emma fred gina hugo ivan jane kate liam mary nick olga paul quinn rosa sam tina vera will zoe adam bella clark diana ethan fiona greg hannah igor julia kevin laura mike nora owen polly ralph'.split(
    ' ',
  )

/** Names that belong to one person each: this is how the model learns that one word can carry a whole identity. */
export const NAMED = Object.fromEntries(
  NAMES.map((name, i) => {
    for (let seed = 7000 + i * 1000; ; seed++) {
      const who = newIdentity(randomFrom(seed))
      const wanted =
        /^(anna|dora|emma|gina|jane|kate|mary|olga|rosa|tina|vera|zoe|bella|diana|fiona|hannah|julia|laura|nora|polly)$/
      if ((who.gender === 'woman') === wanted.test(name)) return [name, who]
    }
  }),
)
