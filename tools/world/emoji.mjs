// Drawings of animals and things from two permissively licensed emoji sets.

import { createRequire } from 'node:module'

const require = createRequire(import.meta.url)
const SETS = {
  flat: require('@iconify-json/fluent-emoji-flat/icons.json'), // Fluent Emoji, MIT
  noto: require('@iconify-json/noto/icons.json'), // Noto Emoji, Apache 2.0
}

let drawn = 0

/** Ids made unique, since one picture may hold the same drawing twice. */
export function ownIds(svg) {
  const prefix = `i${drawn++}-`
  return svg
    .replace(/id="([^"]+)"/g, `id="${prefix}$1"`)
    .replace(/url\(#([^)]+)\)/g, `url(#${prefix}$1)`)
    .replace(/href="#([^"]+)"/g, `href="#${prefix}$1"`)
}

/** Starts the ids again at zero: the same seed then gives the same text. */
export function resetIds() {
  drawn = 0
}

export function emoji(set, name, x, y, size, change = (svg) => svg) {
  const icons = SETS[set]
  const icon = icons.icons[icons.aliases?.[name]?.parent ?? name]
  if (!icon) throw new Error(`no drawing "${name}" in the set ${set}`)
  const scale = size / (icon.width ?? icons.width ?? 16)
  return `<g transform="translate(${x} ${y}) scale(${scale})">${change(ownIds(icon.body))}</g>`
}
