// Colours and small changes of them.

import { between } from './random.mjs'

export const HAIR = {
  black: '2a2438',
  brown: '7a4a35',
  blonde: 'f2c94c',
  red: 'd8303a',
  white: 'e8eaf0',
  blue: '3f7fe0',
  green: '3fae5a',
  purple: '8a4fd0',
}
export const SKIN = { pale: 'f8d5c5', light: 'eeb394', tan: 'd0925f', brown: 'a0633f', dark: '603b2c' }
export const CLOTH = {
  red: 'e24553',
  blue: '456dff',
  green: '4fb35a',
  yellow: 'f3b63a',
  pink: 'f57da6',
  purple: '7555ca',
  white: 'f2f2f2',
  black: '33323d',
}
export const PLAIN = {
  white: 'f6f6f4',
  gray: 'c4c8d0',
  blue: 'bcd7f5',
  green: 'c5e8c8',
  pink: 'f7cfdc',
  yellow: 'faeab4',
}

function toHsl(hex) {
  const [r, g, b] = [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255)
  const max = Math.max(r, g, b)
  const min = Math.min(r, g, b)
  const span = max - min
  const light = (max + min) / 2
  if (!span) return [0, 0, light]
  const hue = max === r ? ((g - b) / span + 6) % 6 : max === g ? (b - r) / span + 2 : (r - g) / span + 4
  return [hue * 60, span / (1 - Math.abs(2 * light - 1)), light]
}

function toHex(hue, saturation, light) {
  const a = saturation * Math.min(light, 1 - light)
  return [0, 8, 4]
    .map((n) => {
      const k = (n + hue / 30) % 12
      const value = light - a * Math.max(-1, Math.min(k - 3, 9 - k, 1))
      return Math.round(255 * value)
        .toString(16)
        .padStart(2, '0')
    })
    .join('')
}

const clamp = (v, low, high) => Math.min(high, Math.max(low, v))

/** The colour a little to one side, so that one colour word means a range of colours. */
export function jitter(hex, random, amount = 0.035) {
  const [h, s, l] = toHsl(hex)
  return toHex(
    (h + between(random, -6, 6) + 360) % 360,
    clamp(s + between(random, -amount, amount), 0, 1),
    clamp(l + between(random, -amount, amount), 0.05, 0.97),
  )
}

const TINTS = {
  white: ([h, s, l]) => [h, s * 0.1, 0.55 + l * 0.45],
  black: ([h, s, l]) => [h, s * 0.1, l * 0.45],
  blue: ([, s, l]) => [215, Math.max(s * 0.8, 0.4), l],
  pink: ([, s, l]) => [335, Math.max(s * 0.8, 0.45), Math.max(l, 0.5)],
  green: ([, s, l]) => [130, Math.max(s * 0.6, 0.35), l * 0.95],
  red: ([, s, l]) => [355, Math.max(s * 0.8, 0.55), l],
}
export const TINT_NAMES = Object.keys(TINTS)

/** Every colour of a drawing moved to one hue; outlines (near black) and highlights (near white) stay. */
export function tint(svg, name) {
  return svg.replace(/#([0-9a-fA-F]{6}|[0-9a-fA-F]{3})\b/g, (match, digits) => {
    const hex = digits.length === 3 ? [...digits].map((c) => c + c).join('') : digits
    const hsl = toHsl(hex)
    return hsl[2] < 0.2 || hsl[2] > 0.95 ? match : `#${toHex(...TINTS[name](hsl))}`
  })
}
