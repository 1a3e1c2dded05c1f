// Draws one person: DiceBear's "Personas" (after Draftbit, CC BY 4.0) for head and shoulders, our own hats, limbs and poses.
// People of the held-out style: DiceBear's "Micah" (after Micah Lanier, CC BY 4.0), with our own sunglasses.

import { createAvatar } from '@dicebear/core'
import * as micah from '@dicebear/micah'
import * as personas from '@dicebear/personas'
import { emoji, ownIds } from './emoji.mjs'
import { UNDER_HAT } from './identity.mjs'

const HAIR_DRAWING = {
  long: 'long',
  bob: 'bobCut',
  pigtails: 'pigtails',
  curly: 'curly',
  bun: 'straightBun',
  short: 'shortCombover',
  buzzcut: 'buzzcut',
  bald: 'bald',
  mohawk: 'mohawk',
  'high-top': 'curlyHighTop',
}
const BEARD_DRAWING = { beard: 'beardMustache', mustache: 'pyramid' }
const MOUTH_DRAWING = { smile: 'smile', laugh: 'bigSmile', surprised: 'surprise', sad: 'frown' }

const HATS = {
  'top hat': () => emoji('flat', 'top-hat', 20, -6, 24),
  crown: () => emoji('flat', 'crown', 20, -4.5, 24),
  'party hat': () =>
    '<path d="M32 -5 L43 15 Q32 19 21 15 Z" fill="#e23b8a"/><path d="M27.6 3 L36.6 3.3 L39.2 8.2 L24.8 7.8Z" fill="#ffd23f"/>' +
    '<circle cx="32" cy="-5" r="3.4" fill="#39c0f0"/>',
}
export const HAT_NAMES = Object.keys(HATS)

const HELD = {
  cup: ['hot-beverage', -11, -17, 22],
  umbrella: ['umbrella', -15, -29, 31],
  guitar: ['guitar', -17, -24, 33],
  ball: ['soccer-ball', -11, -17, 22],
  balloon: ['balloon', -13, -32, 28],
  flower: ['tulip', -12, -23, 24],
}
export const HELD_NAMES = Object.keys(HELD)

/** Height of the whole figure in the drawing's units; head and shoulders alone are 64. */
export const FIGURE = { bust: 64, standing: 118, sitting: 104 }

const INK_DRAWING = {
  waves: 'full',
  pixie: 'pixie',
  fringe: 'dannyPhantom',
  quiff: 'fonze',
  crest: 'mrT',
  turban: 'turban',
  shaved: 'mrClean',
}
const INK_MOUTH = { smile: 'smile', laugh: 'laughing', surprised: 'surprised', sad: 'frown' }
const INK_SUNGLASSES =
  '<g fill="#15151c" stroke="#15151c" stroke-width="1.2"><rect x="22.5" y="22.5" width="8.6" height="6.6" rx="2.4"/><rect x="33.6" y="22.5" width="8.6" height="6.6" rx="2.4"/>' +
  '<path d="M30 24.6 H35 M23 24.6 L14 25.8" fill="none"/></g>'

/** What is inside an SVG file, with ids of its own. */
function bare(svg) {
  const inner = svg.slice(svg.indexOf('>', svg.indexOf('<svg')) + 1, svg.lastIndexOf('</svg>'))
  return ownIds(inner.replace(/<metadata[\s\S]*?<\/metadata>/, ''))
}

function inkedHeadAndShoulders(who, look) {
  const svg = createAvatar(micah, {
    seed: 'one',
    hair: [INK_DRAWING[who.hair]],
    hairProbability: 100,
    hairColor: [who.hairHex],
    baseColor: [who.skinHex],
    shirtColor: [who.clothHex],
    shirt: [who.body],
    nose: [who.nose],
    eyes: ['eyes'],
    eyebrows: [who.gender === 'woman' ? 'eyelashesUp' : 'up'],
    mouth: [INK_MOUTH[look.mouth]],
    facialHair: ['beard'],
    facialHairColor: [who.hairHex],
    facialHairProbability: who.beard ? 100 : 0,
    glasses: ['round'],
    glassesColor: ['15151c'],
    glassesProbability: look.eyes === 'glasses' ? 100 : 0,
    earrings: ['hoop'],
    earringColor: ['f4d150'],
    earringsProbability: who.earring ? 100 : 0,
  }).toString()
  return `<g transform="scale(${64 / 360})">${bare(svg)}</g>${look.eyes === 'sunglasses' ? INK_SUNGLASSES : ''}`
}

function headAndShoulders(who, look) {
  if (who.drawing === 'inked') return inkedHeadAndShoulders(who, look)
  const hair = look.hat ? (UNDER_HAT[who.hair] ?? who.hair) : who.hair
  const svg = createAvatar(personas, {
    seed: 'one',
    hair: [HAIR_DRAWING[hair]],
    hairColor: [who.hairHex],
    skinColor: [who.skinHex],
    clothingColor: [who.clothHex],
    body: [who.body],
    nose: [who.old ? 'wrinkles' : who.nose],
    eyes: [look.eyes],
    mouth: [MOUTH_DRAWING[look.mouth]],
    facialHair: [BEARD_DRAWING[who.beard ?? 'beard']],
    facialHairProbability: who.beard ? 100 : 0,
  }).toString()
  return bare(svg)
}

/** Torso, arms and legs below the shoulders, so that a full figure is a figure and not a bust. */
function limbs(who, pose) {
  const cloth = `#${who.clothHex}`
  const skin = `#${who.skinHex}`
  const torso = pose === 'sitting' ? 84 : 86
  const arm = (x, tip) =>
    `<path d="M${x} 57 L${tip} 80" stroke="${cloth}" stroke-width="8" stroke-linecap="round"/><circle cx="${tip}" cy="84" r="4.2" fill="${skin}"/>`
  const trousers = '#3d4663'
  const legs =
    pose === 'sitting'
      ? `<rect x="17" y="80" width="14" height="11" rx="5" fill="${trousers}"/><rect x="33" y="80" width="14" height="11" rx="5" fill="${trousers}"/><rect x="15" y="90" width="16" height="6" rx="3" fill="#2a2230"/><rect x="33" y="90" width="16" height="6" rx="3" fill="#2a2230"/>`
      : `<rect x="20" y="84" width="11" height="30" rx="3" fill="${trousers}"/><rect x="33" y="84" width="11" height="30" rx="3" fill="${trousers}"/><rect x="17" y="112" width="14" height="6" rx="3" fill="#2a2230"/><rect x="33" y="112" width="14" height="6" rx="3" fill="#2a2230"/>`
  return `${arm(17, 12)}${arm(47, 52)}<rect x="17" y="58" width="30" height="${torso - 56}" rx="4" fill="${cloth}"/>${legs}`
}

/**
 * The person as two drawings in a box 64 units wide: the figure, and the held thing with the hand before it.
 * `look` is what changes from picture to picture: eyes, mouth, hat, held thing, side, pose.
 */
export function drawPerson(who, look, x, y, scale) {
  const place = (svg) => `<g transform="translate(${x} ${y}) scale(${scale})">${svg}</g>`
  const parts = [look.pose === 'bust' ? '' : limbs(who, look.pose), headAndShoulders(who, look)]
  if (look.hat) parts.push(HATS[look.hat]())
  let held = null
  if (look.holds) {
    const handX = look.side < 0 ? 13 : 51
    const handY = look.pose === 'bust' ? 55 : 66
    const [name, dx, dy, size] = HELD[look.holds]
    held = place(
      `${emoji(look.art, name, handX + dx, handY + dy, size)}<circle cx="${handX}" cy="${handY + 2}" r="4.6" fill="#${who.skinHex}"/>`,
    )
  }
  return { figure: place(parts.join('')), held }
}
