// From layers of SVG to bytes: the picture, the masks of its parts, and their boxes.

import { Resvg } from '@resvg/resvg-js'

export const SIDE = 128
export const MASK_SIDE = 16 // one value for each latent pixel
const MASK_DETAIL = 64 // masks are drawn at this size and averaged

const wrap = (body) =>
  `<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 128 128" width="128" height="128">${body}</svg>`

function rgba(body, width) {
  const options = { shapeRendering: 2, font: { loadSystemFonts: false }, fitTo: { mode: 'width', value: width } }
  return new Resvg(wrap(body), options).render().pixels
}

/** Dark lines on white where colours meet: the drawing style that any drawn thing can be shown in. */
function toLines(rgb) {
  const out = Buffer.alloc(rgb.length)
  const at = (x, y, c) => rgb[3 * (Math.min(SIDE - 1, y) * SIDE + Math.min(SIDE - 1, x)) + c]
  for (let y = 0; y < SIDE; y++)
    for (let x = 0; x < SIDE; x++) {
      let edge = 0
      for (let c = 0; c < 3; c++) {
        const v = at(x, y, c)
        edge = Math.max(
          edge,
          Math.abs(at(x + 1, y, c) - v),
          Math.abs(at(x, y + 1, c) - v),
          Math.abs(at(x + 1, y + 1, c) - v),
        )
      }
      const value = 252 - Math.min(210, Math.max(0, edge - 10) * 4)
      out.fill(value, 3 * (y * SIDE + x), 3 * (y * SIDE + x) + 3)
    }
  return out
}

/** Everything of the picture in one drawing. At night people are a little darker too. */
function whole(drawn) {
  const parts = drawn.layers.map((l) => l.svg).join('')
  return (
    drawn.background +
    parts +
    (drawn.made.night ? '<rect width="128" height="128" fill="#0a1040" opacity="0.16"/>' : '')
  )
}

/** The picture as a PNG file, without the line style. */
export const renderPng = (drawn) => new Resvg(wrap(whole(drawn))).render().asPng()

/** The picture as 128 x 128 x 3 bytes. */
export function renderPicture(drawn) {
  const pixels = rgba(whole(drawn), SIDE)
  const rgb = Buffer.alloc(SIDE * SIDE * 3)
  for (let from = 0, to = 0; from < pixels.length; from += 4) {
    rgb[to++] = pixels[from]
    rgb[to++] = pixels[from + 1]
    rgb[to++] = pixels[from + 2]
  }
  return drawn.made.style === 'line drawing' ? toLines(rgb) : rgb
}

/**
 * For each slot the share of every 8 x 8 block that the part visibly covers (0 to 255), and its box in pixels or null.
 * What lies in front is taken away from what lies behind.
 */
export function renderMasks(drawn, slots = 3) {
  const count = MASK_DETAIL * MASK_DETAIL
  const visible = Array.from({ length: slots }, () => new Float32Array(count))
  for (const layer of drawn.layers) {
    const pixels = rgba(layer.svg, MASK_DETAIL)
    for (let i = 0; i < count; i++) {
      const alpha = pixels[4 * i + 3] / 255
      if (alpha === 0) continue
      for (let s = 0; s < slots; s++)
        visible[s][i] = s === layer.slot ? visible[s][i] + alpha * (1 - visible[s][i]) : visible[s][i] * (1 - alpha)
    }
  }
  const block = MASK_DETAIL / MASK_SIDE
  const masks = Buffer.alloc(slots * MASK_SIDE * MASK_SIDE)
  const boxes = visible.map((plane, s) => {
    let [left, top, right, bottom] = [MASK_DETAIL, MASK_DETAIL, -1, -1]
    const sums = new Float32Array(MASK_SIDE * MASK_SIDE)
    for (let i = 0; i < count; i++) {
      if (plane[i] === 0) continue
      const x = i % MASK_DETAIL
      const y = (i - x) / MASK_DETAIL
      sums[Math.floor(y / block) * MASK_SIDE + Math.floor(x / block)] += plane[i]
      if (plane[i] < 0.5) continue
      left = Math.min(left, x)
      right = Math.max(right, x)
      top = Math.min(top, y)
      bottom = Math.max(bottom, y)
    }
    sums.forEach((sum, i) => {
      masks[s * sums.length + i] = Math.round((255 * sum) / (block * block))
    })
    const pixel = SIDE / MASK_DETAIL
    return right < 0 ? null : [left * pixel, top * pixel, (right + 1) * pixel, (bottom + 1) * pixel]
  })
  return { masks, boxes }
}
