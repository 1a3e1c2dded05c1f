// The places: backgrounds of 128 x 128 units, a little different each time, and the words for them.

import { emoji } from './emoji.mjs'
import { between, pick } from './random.mjs'

const round = (v) => Math.round(v * 10) / 10
const rect = (x, y, w, h, fill) =>
  `<rect x="${round(x)}" y="${round(y)}" width="${round(w)}" height="${round(h)}" fill="${fill}"/>`
const disc = (x, y, r, fill) => `<circle cx="${round(x)}" cy="${round(y)}" r="${round(r)}" fill="${fill}"/>`
const hill = (x, y, rx, ry, fill) => `<ellipse cx="${round(x)}" cy="${y}" rx="${round(rx)}" ry="${ry}" fill="${fill}"/>`
const polygon = (points, fill) => `<polygon points="${points.map(round).join(',')}" fill="${fill}"/>`
const sky = (fill) => rect(0, 0, 128, 128, fill)
const times = (count, draw) => Array.from({ length: count }, (_, i) => draw(i)).join('')

const cloud = (x, y) =>
  disc(x, y, 6, '#fff') + disc(x + 7, y - 3, 7, '#fff') + disc(x + 14, y, 6, '#fff') + rect(x, y - 1, 14, 7, '#fff')
const fir = (x, y, s, fill) =>
  rect(x - s * 2, y - s * 8, s * 4, s * 8, '#7a5230') +
  polygon([x, y - s * 38, x - s * 12, y - s * 18, x + s * 12, y - s * 18], fill) +
  polygon([x, y - s * 28, x - s * 14, y - s * 7, x + s * 14, y - s * 7], fill)
const roundTree = (x, y, s, fill) =>
  rect(x - s * 2, y - s * 16, s * 4, s * 16, '#8a5a33') + disc(x, y - s * 24, s * 13, fill)

const DRAW = {
  beach(random) {
    const horizon = between(random, 56, 66)
    const left = random() < 0.5
    return (
      sky('#a8e0ff') +
      disc(left ? between(random, 18, 32) : between(random, 96, 110), between(random, 20, 30), 12, '#ffd84a') +
      rect(0, horizon, 128, 30, '#2fa4e0') +
      rect(0, horizon + 22, 128, 90, '#f5dc98') +
      emoji('flat', 'palm-tree', left ? between(random, 86, 94) : between(random, -14, -8), horizon - 40, 56)
    )
  },
  forest(random) {
    const greens = ['#1f6b3a', '#2a7d45', '#175a30']
    return (
      sky('#bfe6c8') +
      rect(0, 84, 128, 44, '#3d7a45') +
      times(7, (i) =>
        fir(i * 20 + between(random, -2, 8), between(random, 88, 94), between(random, 1.5, 2), pick(random, greens)),
      )
    )
  },
  city(random) {
    let svg = sky('#c9dcf0')
    for (let x = -8 * random(); x < 128; ) {
      const width = between(random, 20, 32)
      const height = between(random, 50, 100)
      svg += rect(x, 112 - height, width, height + 20, pick(random, ['#6b7a99', '#8190b0', '#56637f']))
      for (let a = x + 4; a < x + width - 6; a += 9)
        for (let b = 118 - height; b < 106; b += 13) svg += rect(a, b, 5, 7, '#ffe9a0')
      x += width + 1
    }
    return svg + rect(0, 112, 128, 16, '#4a4d57')
  },
  mountains(random) {
    const peak = (x, y, w) =>
      polygon([x, y, x - w, 110, x + w, 110], '#7d8ca3') +
      polygon([x, y, x - w * 0.27, y + (110 - y) * 0.27, x + w * 0.27, y + (110 - y) * 0.27], '#ffffff')
    return (
      sky('#b7e0f7') +
      peak(between(random, 84, 108), between(random, 22, 32), 50) +
      peak(between(random, 20, 40), between(random, 30, 40), 46) +
      rect(0, 106, 128, 22, '#7cb35c')
    )
  },
  park(random) {
    return (
      sky('#bdeaff') +
      cloud(between(random, 40, 80), between(random, 18, 26)) +
      rect(0, 76, 128, 52, '#8fd46a') +
      roundTree(between(random, 8, 24), 92, 1.7, '#4caf50') +
      roundTree(between(random, 106, 120), 90, 1.6, '#5cbf5c') +
      polygon([52, 128, 76, 128, 68, 76, 62, 76], '#e6d3a3')
    )
  },
  space(random) {
    return (
      sky('#1b1440') +
      times(18, () => disc(random() * 128, random() * 128, between(random, 1.2, 2.4), '#fff6d0')) +
      emoji(
        'flat',
        'ringed-planet',
        random() < 0.5 ? between(random, 0, 8) : between(random, 84, 92),
        between(random, 2, 14),
        40,
      )
    )
  },
  snow(random) {
    return (
      sky('#b4cfe8') +
      hill(between(random, 28, 50), 118, 80, 34, '#f4f9ff') +
      hill(between(random, 100, 112), 122, 70, 30, '#e6f0fb') +
      fir(between(random, 12, 24), 92, 1.2, '#4b8a78') +
      fir(between(random, 106, 118), 96, 1.3, '#4b8a78') +
      times(18, () => disc(random() * 128, random() * 110, between(random, 1.4, 2.6), '#ffffff'))
    )
  },
  desert(random) {
    const left = random() < 0.5
    return (
      sky('#ffe3a8') +
      disc(left ? 102 : 26, 24, 12, '#ff9f43') +
      hill(30, 128, 90, 46, '#e0a458') +
      hill(110, 132, 80, 44, '#cf8f45') +
      emoji('flat', 'cactus', left ? between(random, -2, 4) : between(random, 92, 98), 44, 38)
    )
  },
  room(random) {
    const x = between(random, 6, 14)
    const pane = (dx, dy) => rect(x + dx, dy, 13, 16, '#9fd8f5')
    return (
      sky(pick(random, ['#f3d9c4', '#d8e2c8', '#e6d3e8'])) +
      rect(0, 98, 128, 30, '#b98455') +
      rect(x, 12, 34, 42, '#ffffff') +
      pane(3, 15) +
      pane(18, 15) +
      pane(3, 34) +
      pane(18, 34) +
      emoji('flat', 'couch-and-lamp', between(random, 82, 90), 54, 52)
    )
  },
  garage(random) {
    return (
      sky('#9aa0a8') +
      times(5, (i) => rect(0, 30 + 12 * i, 128, 2, '#868c95')) +
      rect(0, 100, 128, 28, '#5d6168') +
      rect(14, 12, 100, 8, '#7a5c3e') +
      rect(20, 2, 10, 10, '#d9534f') +
      rect(36, 4, 14, 8, '#f0ad4e') +
      rect(96, 3, 10, 9, '#3a7bd5') +
      emoji('flat', 'toolbox', random() < 0.5 ? between(random, -4, 2) : between(random, 96, 102), 84, 30)
    )
  },
  sea(random) {
    const wave = (x, y) =>
      `<path d="M${x} ${y} q6.5 -6 13 0 q6.5 6 13 0" stroke="#6fc0f0" stroke-width="2.4" fill="none"/>`
    return (
      sky('#bfe8ff') +
      rect(0, 50, 128, 78, '#1f7fc4') +
      times(5, (j) => times(6, (i) => wave(i * 26 - 10 + (j % 2) * 13, 62 + j * 14))) +
      emoji('flat', 'sailboat', random() < 0.5 ? between(random, 0, 10) : between(random, 84, 92), 16, 38)
    )
  },
  sunset(random) {
    const bands = ['#5b2a86', '#a63a8a', '#e8557a', '#ff8a5c', '#ffc15e']
    return (
      bands.map((fill, i) => rect(0, i * 18, 128, 22, fill)).join('') +
      disc(between(random, 40, 90), 88, 22, '#fff0a0') +
      rect(0, 88, 128, 40, '#3a2350') +
      hill(between(random, 20, 40), 92, 40, 10, '#3a2350')
    )
  },
}

/** For each place: how captions say that something is there, and what the place alone is called. */
export const SCENES = {
  beach: { there: ['at the beach', 'on the beach'], alone: 'a beach' },
  forest: { there: ['in the forest', 'in a forest'], alone: 'a forest' },
  city: { there: ['in the city', 'in a city'], alone: 'a city' },
  mountains: { there: ['in the mountains'], alone: 'mountains' },
  park: { there: ['in the park', 'in a park'], alone: 'a park' },
  space: { there: ['in space'], alone: 'space' },
  snow: { there: ['in the snow'], alone: 'snow' },
  desert: { there: ['in the desert'], alone: 'a desert' },
  room: { there: ['in a room', 'at home'], alone: 'a room' },
  garage: { there: ['in a garage', 'in the garage'], alone: 'a garage' },
  sea: { there: ['at sea', 'on the sea'], alone: 'the sea' },
  sunset: { there: ['at sunset'], alone: 'a sunset' },
}
export const SCENE_NAMES = Object.keys(SCENES)

/** Places that have a night of their own; space is always dark and a sunset is an hour of the day. */
export const hasNight = (scene) => scene !== 'plain' && scene !== 'space' && scene !== 'sunset'

export function drawScene(scene, random, { plain, night }) {
  const day = scene === 'plain' ? sky(`#${plain}`) : DRAW[scene](random)
  if (!night) return day
  const indoors = scene === 'room' || scene === 'garage'
  const stars = indoors
    ? ''
    : times(8, () => disc(random() * 128, random() * 46, 1.3, '#fff6d0')) +
      disc(between(random, 16, 112), between(random, 14, 22), 10, '#f6f1d0')
  return `${day}<rect width="128" height="128" fill="#0a1040" opacity="0.62"/>${stars}`
}
