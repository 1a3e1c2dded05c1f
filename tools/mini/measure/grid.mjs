// Contact sheets: pictures of one size in a grid, words above the columns, left of the rows, or above each picture.

import { mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import sharp from 'sharp'

const escaped = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')

function lines(text, width, most) {
  const out = ['']
  for (const word of text.split(' ')) {
    if (`${out.at(-1)} ${word}`.trim().length * 5.6 > width && out.at(-1)) out.push(word)
    else out[out.length - 1] = `${out.at(-1)} ${word}`.trim()
  }
  return out.slice(0, most)
}

/**
 * `rows` is a list of lists of { picture, label }, `picture` a path or bytes; a missing picture leaves its place empty.
 * The suffix of `file` is the format.
 */
export async function grid(file, rows, { columns = [], cell = 128, gap = 6 } = {}) {
  const labelled = rows.some((row) => row.some((place) => place?.label))
  const [across, down] = [cell + gap, cell + gap + (labelled ? 36 : 0)]
  const top = columns.length > 0 ? 46 : 0
  const width = Math.max(...rows.map((row) => row.length)) * across + gap
  const height = rows.length * down + top + gap
  const words = []
  const write = (text, x, y) =>
    lines(text, cell, 3).forEach((line, k) => {
      words.push(`<text x="${x}" y="${y + 11 * k + 10}">${escaped(line)}</text>`)
    })
  columns.forEach((text, k) => {
    write(text, gap + k * across, 4)
  })
  const pictures = []
  for (const [y, row] of rows.entries())
    for (const [x, place] of row.entries()) {
      const [left, at] = [gap + x * across, top + gap + y * down]
      if (place?.label) write(place.label, left, at)
      if (!place?.picture) continue
      const input = await sharp(place.picture).resize(cell, cell, { kernel: 'cubic' }).toBuffer()
      pictures.push({ input, left, top: at + (labelled ? 36 : 0) })
    }
  const text = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="DejaVu Sans, Arial, sans-serif" font-size="9.5">${words.join('')}</svg>`
  mkdirSync(dirname(file), { recursive: true })
  const paper = sharp({ create: { width, height, channels: 3, background: '#ffffff' } })
  await paper.composite([...pictures, { input: Buffer.from(text), left: 0, top: 0 }]).toFile(file)
}
