// What a picture's caption says: never all that is drawn, sometimes almost nothing, so that short and long prompts work.

import { hasHairColor, UNDER_HAT } from './identity.mjs'
import { pick, pickWeighted } from './random.mjs'
import { SCENES } from './scenes.mjs'

export const article = (noun) => (/^[aeiou]/.test(noun) ? `an ${noun}` : `a ${noun}`)

const HAIR_WITH_ARTICLE = new Set(['bob', 'bun', 'buzzcut', 'mohawk', 'high-top'])
const MOUTHS = {
  smile: ['smiling', 'with a closed mouth'],
  laugh: ['laughing', 'with an open mouth', 'smiling with an open mouth'],
  surprised: ['surprised', 'with an open mouth'],
  sad: ['sad', 'frowning', 'with a closed mouth'],
}

const PREFIXES = {
  'a photo of ': 5,
  '': 5,
  'a picture of ': 1,
  'an image of ': 0.6,
  'a good photo of ': 0.3,
  'a bright photo of ': 0.2,
  'a cropped photo of ': 0.2,
  'a rendition of ': 0.2,
}
const CLOSE_PREFIXES = ['a close-up of ', 'a close-up photo of ', 'a portrait of ', 'a photo of the face of ']

function hairWords(who, sayColor, sayStyle) {
  const color = sayColor ? `${who.hairColor} ` : ''
  if (sayStyle && HAIR_WITH_ARTICLE.has(who.hair)) return `a ${color}${who.hair}`
  if (sayStyle && who.hair === 'pigtails') return `${color}pigtails`
  return `${sayStyle ? `${who.hair} ` : ''}${color}hair`
}

/**
 * Words for one person, and which drawn part each noun names: slot numbers as in the masks.
 * `keep` is how much is said; a named person's lasting looks are hardly ever said, because the name says them.
 */
function personWords(random, person, keep) {
  const { who, look, slot, name } = person
  const says = (chance) => random() < chance
  const named = name !== null && says(0.75)
  const noun = named ? name : says(0.42) ? 'person' : who.gender
  const lasting = named ? 0.05 : keep
  const before = []
  const has = []
  if (who.old && says(named ? 0.05 : 0.85)) before.push('old')
  if (says(lasting * 0.55)) before.push(`${who.skin}-skinned`)
  const changed = look.hat && UNDER_HAT[who.hair]
  if (who.hair === 'bald') {
    if (says(lasting)) before.push('bald')
  } else if (says(lasting)) {
    const sayColor = hasHairColor(who) && says(0.88)
    const sayStyle = !changed && (!sayColor || says(0.5))
    if (sayColor && !sayStyle && says(0.35)) before.push(`${who.hairColor}-haired`)
    else if (sayColor || sayStyle) has.push(hairWords(who, sayColor, sayStyle))
  }
  if (who.beard && says(named ? 0.05 : Math.min(0.9, keep + 0.15))) {
    if (who.beard === 'beard' && says(0.3)) before.push('bearded')
    else has.push(`a ${who.beard}`)
  }
  const wears = []
  if (look.eyes !== 'open' && says(named && who.glasses ? 0.4 : 0.95)) wears.push(look.eyes)
  if (look.hat && says(0.95)) wears.push(says(0.12) ? 'a hat' : article(look.hat))
  if (says(look.newCloth ? 0.9 : lasting * 0.5)) wears.push(article(`${who.cloth} shirt`))
  const text = [named ? [...before, noun].join(' ') : article([...before, noun].join(' '))]
  if (has.length) text.push(`with ${has.join(' and ')}`)
  if (wears.length) text.push(`${says(0.88) ? 'wearing' : 'with'} ${wears.join(' and ')}`)
  if (says(look.mouth === who.mouth ? 0.2 * keep : keep * 0.75)) text.push(pick(random, MOUTHS[look.mouth]))
  const words = [[noun, slot]]
  if (look.pose === 'standing' && says(0.9)) text.push('standing')
  if (look.pose === 'sitting' && says(0.95)) text.push('sitting on a chair')
  if (look.holds && says(0.95)) {
    text.push(
      look.holds === 'guitar' && says(0.4)
        ? 'playing the guitar'
        : `${says(0.9) ? 'holding' : 'with'} ${article(look.holds)}`,
    )
    words.push([look.holds, person.heldSlot])
  }
  return { text: text.join(' '), words }
}

function thingWords(random, thing) {
  const text = thing.tint && random() < 0.93 ? `${thing.tint} ${thing.kind}` : thing.kind
  return { text: article(text), words: [[thing.kind, thing.slot]] }
}

/** The caption of a finished composition and the nouns in it, in the order of the text. */
export function caption(random, made) {
  const keep = random() < 0.2 ? 0.2 : 0.75
  const parts = [
    ...made.people.map((p) => personWords(random, p, keep)),
    ...made.things.map((t) => thingWords(random, t)),
  ]
  let said
  if (made.kind === 'two people' && random() < 0.4) {
    const [a, b] = made.people.map((p) => p.who.gender)
    const both = a !== b ? 'a man and a woman' : a === 'man' ? 'two men' : 'two women'
    said = { text: random() < 0.6 ? 'two people' : both, words: [] }
  } else if (parts.length === 2) {
    const between = made.kind === 'person and animal' ? ['with', 'and'] : ['and', 'and', 'next to']
    said = { text: `${parts[0].text} ${pick(random, between)} ${parts[1].text}`, words: parts.flatMap((p) => p.words) }
  } else
    said = parts[0] ?? { text: made.scene === 'plain' ? 'a plain background' : SCENES[made.scene].alone, words: [] }

  const where = []
  if (made.scene === 'plain') {
    if (parts.length && random() < 0.4)
      where.push(random() < 0.35 ? 'on a plain background' : `on a ${made.plain} background`)
  } else if (parts.length && random() < 0.94) where.push(pick(random, SCENES[made.scene].there))
  if (made.night && random() < 0.93) where.push('at night')

  const close = made.framing === 'close' && random() < 0.8
  let prefix = pickWeighted(random, PREFIXES)
  if (made.style === 'line drawing') prefix = pick(random, ['a line drawing of ', 'a line drawing of ', 'a sketch of '])
  else if (close) prefix = pick(random, CLOSE_PREFIXES)
  // Learning prompts say "the" and "one" too.
  const subject =
    prefix && parts.length === 1 && random() < 0.06
      ? said.text.replace(/^an? /, pick(random, ['the ', 'the ', 'one ']))
      : said.text
  return { text: prefix + [subject, ...where].join(' '), words: said.words }
}
