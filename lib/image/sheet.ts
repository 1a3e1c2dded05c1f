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
  /** Beside the title: what the sheet is about. */
  photo?: NativeImage | undefined
  /** Above the columns; one with a span stands above several and sets them apart from the rest. */
  columns?: (string | { text: string; span: number })[] | undefined
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
  /** Between groups of columns. */
  groupGap: 44,
  photo: 168,
  radius: 10,
}

const TITLE = { size: 30, weight: 700, line: 38 }
const SUBTITLE = { size: 16, weight: 400, line: 26 }
const COLUMN = { size: 16, weight: 600, line: 30 }
const ROW = { size: 16, weight: 600, line: 21 }
const LABEL = { size: 14, weight: 400, line: 19 }
const LABEL_LINES = 2
const ROW_LABEL_WIDTH = 190
/** Room for a title above a single picture. */
const MIN_WIDTH = 640

/** Mean width of a letter in units of the font's size: a little wide, so that lines rather stay short. */
const LETTER = 0.56
const BOLD_LETTER = 0.64
const BOLD = 600

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

interface TextStyle {
  size: number
  weight: number
  line: number
}

/** Breaks a text into lines of at most `width` pixels; what does not fit on the last one is cut with an ellipsis. */
export function wrapText(text: string, width: number, { size, weight }: TextStyle, lines: number): string[] {
  const room = Math.max(4, Math.floor(width / (size * (weight >= BOLD ? BOLD_LETTER : LETTER))))
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

/** Where the columns begin: those under one heading stand together, groups apart. */
function columnLefts(across: number, columns: { span: number }[], left: number, cell: number): number[] {
  const lasts = new Set<number>()
  let end = 0
  if (columns.some(({ span }) => span > 1))
    for (const { span } of columns) {
      end += span
      lasts.add(end - 1)
    }
  const lefts: number[] = []
  let x = left
  for (let column = 0; column < across; column += 1) {
    lefts.push(x)
    x += cell + (lasts.has(column) ? STYLE.groupGap : STYLE.gap)
  }
  return lefts
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

let fonts: Promise<boolean> | undefined

/** False on a machine without fonts, where every letter would be drawn as the same empty box. */
async function hasFonts(): Promise<boolean> {
  const { default: sharp } = await import('sharp')
  const letter = (text: string): Promise<Buffer> => {
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><text x="4" y="30" font-size="28" font-family="${STYLE.font}">${text}</text></svg>`
    return sharp(Buffer.from(svg)).raw().toBuffer()
  }
  const [narrow, wide] = await Promise.all([letter('i'), letter('W')])
  return !narrow.equals(wide)
}

type Heading = { text: string; span: number }

/** Collects what is drawn: words and lines in one SVG, pictures beside it. */
class Drawing {
  readonly #shapes: string[] = []
  readonly #pictures: Promise<OverlayOptions>[] = []

  shape(svg: string): void {
    this.#shapes.push(svg)
  }

  picture(image: NativeImage, size: { width: number; height: number }, left: number, top: number): void {
    this.#pictures.push(drawPicture(image, size.width, size.height).then((input) => ({ input, left, top })))
  }

  rule(left: number, right: number, y: number): void {
    this.shape(`<line x1="${left}" x2="${right}" y1="${y}" y2="${y}" stroke="${STYLE.line}"/>`)
  }

  frame(left: number, top: number, { width, height }: { width: number; height: number }): void {
    this.shape(
      `<rect x="${left - 4}" y="${top - 4}" width="${width + 8}" height="${height + 8}" rx="${STYLE.radius + 4}" fill="none" stroke="${STYLE.accent}" stroke-width="3"/>`,
    )
  }

  async png(width: number, height: number): Promise<Buffer> {
    const { default: sharp } = await import('sharp')
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><g font-family="${STYLE.font}">${this.#shapes.join('')}</g></svg>`
    const pictures = await Promise.all(this.#pictures)
    return await sharp({ create: { width, height, channels: 3, background: STYLE.paper } })
      .composite([{ input: Buffer.from(svg), left: 0, top: 0 }, ...pictures])
      .png()
      .toBuffer()
  }
}

/**
 * Draws pictures in a grid as a PNG. Rows may differ in length; cells may be empty.
 *
 * Words are drawn with the fonts of the machine; where it has none, the pictures stand alone.
 */
export async function contactSheet(cells: SheetCell[][], options: SheetOptions = {}): Promise<Buffer> {
  fonts ??= hasFonts()
  if (await fonts) return await drawSheet(cells, options)
  const { photo, cell } = options
  return await drawSheet(
    cells.map((row) => row.map(({ image, highlight }) => ({ image, highlight }))),
    { photo, cell },
  )
}

async function drawSheet(cells: SheetCell[][], options: SheetOptions): Promise<Buffer> {
  const columns = (options.columns ?? []).map(
    (column): Heading => (typeof column === 'string' ? { text: column, span: 1 } : column),
  )
  const spanned = columns.reduce((sum, { span }) => sum + span, 0)
  const across = Math.max(1, spanned, ...cells.map((row) => row.length))
  const cell = options.cell ?? Math.max(128, Math.min(256, Math.floor(1680 / across) - STYLE.gap))
  const rowLabels = options.rows?.some(Boolean) ? ROW_LABEL_WIDTH + STYLE.gap : 0
  const lefts = columnLefts(across, columns, STYLE.margin + rowLabels, cell)
  const width = Math.max(MIN_WIDTH, lefts.at(-1)! + cell + STYLE.margin)

  const drawing = new Drawing()
  let y = drawHeader(drawing, options, width)
  if (columns.length > 0) {
    drawHeadings(drawing, columns, lefts, cell, y)
    y += COLUMN.line
  }
  for (const [index, row] of cells.entries()) {
    y += drawRow(drawing, row, options.rows?.[index], lefts, cell, y) + STYLE.gap
  }
  return await drawing.png(width, Math.ceil(y - STYLE.gap + STYLE.margin))
}

/** Title, subtitle and the photo beside them; returns where the grid begins. */
function drawHeader(drawing: Drawing, { title, subtitle, photo }: SheetOptions, width: number): number {
  const { margin } = STYLE
  const left = photo ? margin + STYLE.photo + 28 : margin
  const titleLines = title ? wrapText(title, width - margin - left, TITLE, 2) : []
  const subtitleLines = subtitle ? wrapText(subtitle, width - margin - left, SUBTITLE, 4) : []
  if (!title && !subtitle && !photo) return margin
  const space = title && subtitle ? 6 : 0
  const textHeight = titleLines.length * TITLE.line + space + subtitleLines.length * SUBTITLE.line
  let y = photo ? margin + Math.max(0, Math.floor((STYLE.photo - textHeight) / 2)) : margin - 6
  drawing.shape(textLines(titleLines, left, y, TITLE))
  y += titleLines.length * TITLE.line + space
  drawing.shape(textLines(subtitleLines, left, y, SUBTITLE, { colour: STYLE.quiet }))
  y += subtitleLines.length * SUBTITLE.line
  if (photo) {
    drawing.picture(photo, drawnSize(photo, STYLE.photo), margin, margin)
    y = Math.max(y, margin + STYLE.photo) + 12
  }
  y += 14
  drawing.rule(margin, width - margin, y)
  return y + 22
}

function drawHeadings(drawing: Drawing, columns: Heading[], lefts: number[], cell: number, y: number): void {
  let column = 0
  for (const { text, span } of columns) {
    const from = lefts[column]!
    const to = lefts[column + span - 1]! + cell
    drawing.shape(textLines(wrapText(text, to - from, COLUMN, 1), (from + to) / 2, y, COLUMN, { anchor: 'middle' }))
    column += span
  }
}

/** One row and its label; returns how tall it is. */
function drawRow(
  drawing: Drawing,
  row: SheetCell[],
  heading: string | undefined,
  lefts: number[],
  cell: number,
  y: number,
): number {
  const sizes = row.map(({ image }) => (image ? drawnSize(image, cell) : undefined))
  const labels = row.map(({ label }) => (label ? wrapText(label, cell, LABEL, LABEL_LINES) : []))
  const tallest = Math.max(0, ...sizes.map((size) => size?.height ?? 0)) || cell
  if (heading) {
    const lines = wrapText(heading, ROW_LABEL_WIDTH, ROW, 6)
    drawing.shape(textLines(lines, STYLE.margin, y + (tallest - lines.length * ROW.line) / 2, ROW))
  }
  for (const [column, { image, highlight }] of row.entries()) {
    const x = lefts[column]!
    const size = sizes[column]
    if (image && size) {
      const left = x + Math.floor((cell - size.width) / 2)
      const top = y + Math.floor((tallest - size.height) / 2)
      drawing.picture(image, size, left, top)
      if (highlight) drawing.frame(left, top, size)
    }
    const style = { anchor: 'middle', colour: STYLE.quiet } as const
    drawing.shape(textLines(labels[column]!, x + cell / 2, y + tallest + 6, LABEL, style))
  }
  const lines = Math.max(0, ...labels.map((label) => label.length))
  return tallest + (lines > 0 ? 8 + lines * LABEL.line : 0)
}
