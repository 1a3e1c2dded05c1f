// One picture of the world from one seed: what is in it, where, and what its caption says.

import { caption } from './captions.mjs'
import { CLOTH, jitter, PLAIN, TINT_NAMES, tint } from './colors.mjs'
import { emoji, resetIds } from './emoji.mjs'
import {
  hasHairColor,
  heldOutPair,
  heldOutPerson,
  NAMED,
  newIdentity,
  newInkedIdentity,
  UNDER_HAT,
} from './identity.mjs'
import { drawPerson, FIGURE, HAT_NAMES, HELD_NAMES } from './person.mjs'
import { between, pick, pickWeighted, randomFrom } from './random.mjs'
import { drawScene, hasNight, SCENE_NAMES } from './scenes.mjs'

/** Which part of a picture each mask shows. */
export const SLOTS = { first: 0, second: 1, held: 2 }

const ANIMALS = { cat: ['cat-face'], dog: ['dog-face'], bear: ['bear'], rabbit: ['rabbit-face'] }
const OBJECTS = { car: ['automobile', 'sport-utility-vehicle'], chair: ['chair'], toy: ['teddy-bear'] }
export const ANIMAL_NAMES = Object.keys(ANIMALS)
export const OBJECT_NAMES = Object.keys(OBJECTS)

const KINDS = { person: 64, 'two people': 9, 'person and animal': 7, animal: 9, object: 8, place: 3 }
const MOUTHS = { smile: 3, laugh: 2.5, surprised: 2, sad: 1.5 }

function newLook(random, who, named, { alone, pose }) {
  const look = { pose, eyes: pickWeighted(random, { open: 7, sunglasses: 1.8, glasses: 1.2 }) }
  if (who.glasses && random() < 0.7) look.eyes = 'glasses'
  look.mouth = random() < 0.45 ? who.mouth : pickWeighted(random, MOUTHS)
  look.hat = random() < 0.2 ? pick(random, HAT_NAMES) : null
  look.holds = alone && random() < 0.3 ? pick(random, HELD_NAMES) : null
  look.side = random() < 0.7 ? 1 : -1
  look.art = random() < 0.6 ? 'flat' : 'noto'
  look.newCloth = named && random() < 0.25
  return look
}

/** Measuring nets see everything (split 'all'), so that what the model never saw is not judged worse for being rare. */
export function newStranger(random, split) {
  if (split === 'inked' || (split === 'all' && random() < 0.1)) return newInkedIdentity(random)
  return newIdentity(random, split === 'all' ? random() < 0.1 : split === 'test')
}

function newPerson(random, slot, options) {
  const named = options.split === 'train' && !options.who && random() < 0.36
  const name = named ? pick(random, Object.keys(NAMED)) : null
  let who = options.who ?? (name ? NAMED[name] : newStranger(random, options.split))
  const look = { ...newLook(random, who, name !== null, options), ...options.look }
  if (look.newCloth) {
    const cloth = pick(random, Object.keys(CLOTH))
    who = { ...who, cloth, clothHex: jitter(CLOTH[cloth], random) }
  }
  return { who, look, name, slot, heldSlot: SLOTS.held }
}

/** What an evaluation asks about a person in a place, as it is finally drawn. */
export function attributesOf({ who, look }) {
  const hair = hasHairColor(who) ? `${who.hairColor} hair` : who.hair
  const list = [look.eyes, look.hat, look.holds, who.beard, hair]
  return list.filter((a) => a && a !== 'open')
}

/** True if the finished picture shows something that must stay unseen; asked last, after every override. */
function showsHeldOut(made) {
  return made.people.some(({ who, look }, i) => {
    if (who.drawing) return true
    const drawn = look.hat ? (UNDER_HAT[who.hair] ?? who.hair) : who.hair
    return (
      heldOutPerson(who.hair, who.hairColor, who.skin) ||
      heldOutPerson(drawn, who.hairColor, who.skin) ||
      attributesOf(made.people[i]).some((a) => heldOutPair(a, made.scene))
    )
  })
}

function placePerson(random, person, centre, { framing, scale }) {
  const { pose } = person.look
  let y = 128 - FIGURE[pose] * scale + between(random, 0, 0.05) * 64 * scale
  if (framing === 'close') y = between(random, 60, 66) - 30 * scale
  if (pose !== 'bust') y = 126 - FIGURE[pose] * scale - between(random, 0, 3)
  const { figure, held } = drawPerson(person.who, person.look, centre - 32 * scale, y, scale)
  const chair = pose === 'sitting' ? emoji('flat', 'chair', centre - 40 * scale, y + 24 * scale, 80 * scale) : ''
  return [
    { slot: null, svg: chair },
    { slot: person.slot, svg: figure },
    { slot: person.heldSlot, svg: held ?? '' },
  ]
}

function newThing(random, kind, slot, options) {
  const drawing = pick(random, ANIMALS[kind] ?? OBJECTS[kind])
  return {
    kind,
    slot,
    drawing,
    art: pick(random, ['flat', 'noto']),
    tint: random() < 0.45 ? pick(random, TINT_NAMES) : null,
    ...options.thing,
  }
}

const drawThing = (thing, x, y, size) =>
  emoji(thing.art, thing.drawing, x, y, size, thing.tint ? (svg) => tint(svg, thing.tint) : undefined)

function compose(random, options) {
  const kind = options.kind ?? pickWeighted(random, KINDS)
  const scene = options.scene ?? (random() < 0.28 && kind !== 'place' ? 'plain' : pick(random, SCENE_NAMES))
  const plain = pick(random, Object.keys(PLAIN))
  const night = options.night ?? (hasNight(scene) && random() < 0.07)
  const style = options.style ?? (random() < 0.045 ? 'line drawing' : 'picture')
  const split = options.split ?? 'train'
  const made = { kind, scene, plain, night, style, framing: 'usual', people: [], things: [] }
  const layers = []
  if (kind === 'person') {
    const framing = options.framing ?? pickWeighted(random, { usual: 71, close: 15, standing: 10, sitting: 4 })
    const pose = framing === 'standing' || framing === 'sitting' ? framing : 'bust'
    const person = newPerson(random, SLOTS.first, {
      ...options,
      split,
      alone: framing !== 'close' && pose !== 'sitting',
      pose,
    })
    const scale = {
      usual: between(random, 1.5, 2),
      close: between(random, 2.2, 2.6),
      standing: between(random, 0.9, 1.02),
      sitting: between(random, 1, 1.2),
    }[framing]
    const free = framing === 'close' ? 5 : Math.max(3, Math.min(20, 64 - 24 * scale))
    const toward = person.look.holds && pose === 'bust' ? -person.look.side * 8 : 0
    made.framing = framing
    made.people.push(person)
    layers.push(
      ...placePerson(random, person, 64 + toward + between(random, -free, free) * (toward ? 0.3 : 1), {
        framing,
        scale,
      }),
    )
  } else if (kind === 'two people') {
    for (const slot of [SLOTS.first, SLOTS.second]) {
      const person = newPerson(random, slot, { ...options, split, alone: false, pose: 'bust' })
      const centre = slot === SLOTS.first ? between(random, 32, 37) : between(random, 91, 96)
      made.people.push(person)
      layers.push(...placePerson(random, person, centre, { framing: 'usual', scale: between(random, 1.3, 1.5) }))
    }
  } else if (kind === 'person and animal') {
    const left = random() < 0.5
    const person = newPerson(random, SLOTS.first, { ...options, split, alone: false, pose: 'bust' })
    const animal = newThing(random, options.animal ?? pick(random, ANIMAL_NAMES), SLOTS.second, options)
    const size = between(random, 50, 60)
    made.people.push(person)
    made.things.push(animal)
    layers.push(...placePerson(random, person, left ? 84 : 44, { framing: 'usual', scale: between(random, 1.4, 1.6) }))
    layers.push({
      slot: SLOTS.second,
      svg: drawThing(animal, (left ? 28 : 100) - size / 2, between(random, 66, 74), size),
    })
  } else if (kind !== 'place') {
    const thing = newThing(
      random,
      options.thing?.kind ?? pick(random, kind === 'animal' ? ANIMAL_NAMES : OBJECT_NAMES),
      SLOTS.first,
      options,
    )
    const size = between(random, 68, 106)
    const free = (126 - size) / 2
    made.things.push(thing)
    layers.push({
      slot: SLOTS.first,
      svg: drawThing(
        thing,
        64 + between(random, -free, free) - size / 2,
        Math.min(126 - size, between(random, 24, 54)),
        size,
      ),
    })
  }
  const background = drawScene(scene, random, { plain: jitter(PLAIN[plain], random, 0.015), night })
  return { made, background, layers }
}

/**
 * The picture of a seed: SVG layers, caption, nouns and description.
 * `options.split` 'train' (default) never shows what is held out; 'test' draws people of held-out combinations only,
 * 'inked' people of the held-out style only, 'all' everything.
 * Any of kind, scene, night, style, framing, who, look, thing, animal fixes that choice, for evaluations.
 */
export function sample(seed, options = {}) {
  const train = (options.split ?? 'train') === 'train'
  for (let attempt = 0; ; attempt++) {
    resetIds()
    const random = randomFrom(seed + attempt * 7919 * 65537)
    const { made, background, layers } = compose(random, options)
    if (train && !options.who && showsHeldOut(made)) continue
    const { text, words } = caption(random, made)
    return { seed, made, background, layers: layers.filter((l) => l.svg), caption: text, words }
  }
}
