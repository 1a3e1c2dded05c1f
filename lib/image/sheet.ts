/** Contact sheets: pictures in a grid, with words. */

import type { OverlayOptions } from 'sharp'
import type { NativeImage } from '../native.ts'

/** One place of the grid. Without a picture it stays empty. */
export interface SheetCell {
  image?: NativeImage | undefined
  /** Below the picture, at most two lines. */
  label?: string | undefined
  /** Drawn around the picture, to make it stand out. */
  highlight?: boolean | undefined
}

export interface SheetOptions {
  /** Above all. */
  title?: string | undefined
  /** Below the title, smaller. */
  subtitle?: string | undefined
  /** Above the columns. */
  columns?: string[] | undefined
  /** Left of the rows. */
  rows?: string[] | undefined
  /** Longest side of a picture on the sheet, in pixels. Default: 256, less where there are many columns. */
  cell?: number | undefined
}

const STYLE = {
  paper: '#f7f6f3',
  ink: '#22242a',
  quiet: '#6f737d',
  line: '#dcdad4',
  accent: '#d9622b',
  font: 'Inter, Helvetica Neue, Arial, Liberation Sans, DejaVu Sans, sans-serif',
  margin: 44,
  gap: 18,
  radius: 10,
}

const TITLE = { size: 30, weight: 700, line: 38 }
const SUBTITLE = { size: 16, weight: 400, line: 26 }
const COLUMN = { size: 16, weight: 600, line: 30 }
const ROW = { size: 16, weight: 600, line: 21 }
const LABEL = { size: 14, weight: 400, line: 19 }
const LABEL_LINES = 2
const ROW_LABEL_WIDTH = 190

/** Mean width of a letter in units of the font's size: a little wide, so that lines rather stay short. */
const LETTER = 0.54

function escapeXml(text: string): string {
  return (
    text
      // XML knows no control characters nor halves of surrogate pairs, not even escaped.
      .replace(/[^\P{Cc}\t\n\r]|\p{Cs}|[\ufffe\uffff]/gu, '')
      .replace(/&/g, '&amp;')
      .replace(/</g, '&lt;')
      .replace(/>/g, '&gt;')
      .replace(/"/g, '&quot;')
  )
}

/** Breaks a text into lines of at most `width` pixels; what does not fit on the last one is cut with an ellipsis. */
export function wrapText(text: string, width: number, size: number, lines: number): string[] {
  const room = Math.max(4, Math.floor(width / (size * LETTER)))
  const out: string[] = []
  let line = ''
  for (const word of text.trim().split(/\s+/)) {
    const longer = line ? `${line} ${word}` : word
    if (longer.length <= room || !line) line = longer
    else {
      out.push(line)
      line = word
    }
  }
  if (line) out.push(line)
  const kept = out.slice(0, lines)
  if (out.length > lines) kept[lines - 1] = `${kept[lines - 1]} …`
  return kept.map((part) => (part.length > room ? `${part.slice(0, room - 1).trimEnd()}…` : part))
}

interface TextStyle {
  size: number
  weight: number
  line: number
}

function textLines(
  lines: string[],
  x: number,
  top: number,
  style: TextStyle,
  { anchor = 'start', colour = STYLE.ink }: { anchor?: 'start' | 'middle' | 'end'; colour?: string } = {},
): string {
  return lines
    .map((line, index) => {
      const y = top + index * style.line + style.size
      return `<text x="${x}" y="${y}" font-size="${style.size}" font-weight="${style.weight}" fill="${colour}" text-anchor="${anchor}">${escapeXml(line)}</text>`
    })
    .join('')
}

/** How large a picture is drawn: it fits the cell, and a small one is enlarged to it. */
function drawnSize(image: NativeImage, cell: number): { width: number; height: number } {
  const scale = cell / Math.max(image.width, image.height)
  return { width: Math.max(1, Math.round(image.width * scale)), height: Math.max(1, Math.round(image.height * scale)) }
}

async function drawPicture(image: NativeImage, width: number, height: number): Promise<Buffer> {
  const { default: sharp } = await import('sharp')
  const corners = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><rect width="${width}" height="${height}" rx="${STYLE.radius}" fill="#fff"/></svg>`
  const pixels = await sharp(image.data, { raw: { width: image.width, height: image.height, channels: 3 } })
    .resize(width, height, { kernel: 'lanczos3', fit: 'fill' })
    .ensureAlpha()
    .png({ compressionLevel: 1 })
    .toBuffer()
  return await sharp(pixels)
    .composite([{ input: Buffer.from(corners), blend: 'dest-in' }])
    .png({ compressionLevel: 1 })
    .toBuffer()
}

/**
 * Draws pictures in a grid as a PNG. Rows may differ in length; cells may be empty.
 *
 * Words are drawn with the fonts of the machine; where it has none, the pictures stand alone.
 */
export async function contactSheet(cells: SheetCell[][], options: SheetOptions = {}): Promise<Buffer> {
  const { default: sharp } = await import('sharp')
  const { title, subtitle, columns, rows } = options
  const across = Math.max(1, columns?.length ?? 0, ...cells.map((row) => row.length))
  const cell = options.cell ?? Math.max(128, Math.min(256, Math.floor(1680 / across) - STYLE.gap))
  const { margin, gap } = STYLE

  const rowLabelWidth = rows?.some(Boolean) ? ROW_LABEL_WIDTH : 0
  const left = margin + (rowLabelWidth ? rowLabelWidth + gap : 0)
  const width = left + across * cell + (across - 1) * gap + margin
  const shapes: string[] = []
  const pictures: Promise<OverlayOptions>[] = []

  let y = margin - 6
  const inner = width - 2 * margin
  if (title) {
    const lines = wrapText(title, inner, TITLE.size, 2)
    shapes.push(textLines(lines, margin, y, TITLE))
    y += lines.length * TITLE.line
  }
  if (subtitle) {
    const lines = wrapText(subtitle, inner, SUBTITLE.size, 3)
    shapes.push(textLines(lines, margin, y, SUBTITLE, { colour: STYLE.quiet }))
    y += lines.length * SUBTITLE.line
  }
  if (title || subtitle) {
    y += 10
    shapes.push(`<line x1="${margin}" x2="${width - margin}" y1="${y}" y2="${y}" stroke="${STYLE.line}"/>`)
    y += 16
  }
  if (columns?.some(Boolean)) {
    columns.forEach((text, column) => {
      const x = left + column * (cell + gap) + cell / 2
      shapes.push(
        textLines(wrapText(text, cell, COLUMN.size, 1), x, y, COLUMN, { anchor: 'middle', colour: STYLE.quiet }),
      )
    })
    y += COLUMN.line
  }

  cells.forEach((row, index) => {
    const sizes = row.map(({ image }) => (image ? drawnSize(image, cell) : undefined))
    const labels = row.map(({ label }) => (label ? wrapText(label, cell, LABEL.size, LABEL_LINES) : []))
    const tallest = Math.max(0, ...sizes.map((size) => size?.height ?? 0)) || cell
    const text = rows?.[index]
    if (text) {
      const lines = wrapText(text, rowLabelWidth, ROW.size, 6)
      shapes.push(textLines(lines, margin, y + (tallest - lines.length * ROW.line) / 2, ROW))
    }
    row.forEach(({ image, highlight }, column) => {
      const x = left + column * (cell + gap)
      const size = sizes[column]
      if (image && size) {
        const at = { left: x + Math.floor((cell - size.width) / 2), top: y + Math.floor((tallest - size.height) / 2) }
        pictures.push(
          drawPicture(image, size.width, size.height).then((input) => ({ input, left: at.left, top: at.top })),
        )
        if (highlight)
          shapes.push(
            `<rect x="${at.left - 4}" y="${at.top - 4}" width="${size.width + 8}" height="${size.height + 8}" rx="${STYLE.radius + 4}" fill="none" stroke="${STYLE.accent}" stroke-width="3"/>`,
          )
      }
      shapes.push(
        textLines(labels[column]!, x + cell / 2, y + tallest + 6, LABEL, { anchor: 'middle', colour: STYLE.quiet }),
      )
    })
    y +=
      tallest +
      Math.max(0, ...labels.map((lines) => lines.length)) * LABEL.line +
      (labels.some((l) => l.length) ? 8 : 0) +
      gap
  })
  const height = Math.ceil(y - gap + margin)

  const drawing = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><g font-family="${STYLE.font}">${shapes.join('')}</g></svg>`
  return await sharp({ create: { width, height, channels: 3, background: STYLE.paper } })
    .composite([{ input: Buffer.from(drawing), left: 0, top: 0 }, ...(await Promise.all(pictures))])
    .png()
    .toBuffer()
}
