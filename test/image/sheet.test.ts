import { execFileSync } from 'node:child_process'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { build } from 'esbuild'
import sharp from 'sharp'
import { describe, expect, it } from 'vitest'
import { contactSheet } from '../../lib/image/index.ts'
import { wrapText } from '../../lib/image/sheet.ts'
import { packageRoot } from '../../lib/paths.ts'

function flat(red: number, green: number, blue: number, width = 32, height = 32) {
  const data = new Uint8Array(width * height * 3)
  for (let at = 0; at < data.length; at += 3) data.set([red, green, blue], at)
  return { data, width, height }
}

async function decode(png: Buffer) {
  const { data, info } = await sharp(png).removeAlpha().raw().toBuffer({ resolveWithObject: true })
  return {
    width: info.width,
    height: info.height,
    /** Boxes around the pixels of a colour: left, top, right, bottom. */
    box(red: number, green: number, blue: number): number[] | undefined {
      let box: number[] | undefined
      for (let y = 0; y < info.height; y += 1)
        for (let x = 0; x < info.width; x += 1) {
          const at = (y * info.width + x) * 3
          const near = [red, green, blue].every((value, k) => Math.abs(data[at + k]! - value) <= 2)
          if (near) box = box ? [Math.min(box[0]!, x), box[1]!, Math.max(box[2]!, x), y] : [x, y, x, y]
        }
      return box
    },
  }
}

describe('a contact sheet', () => {
  it('stands pictures in rows and columns, each at the size of a cell', async () => {
    const sheet = await decode(
      await contactSheet(
        [
          [{ image: flat(255, 0, 0) }, { image: flat(0, 255, 0) }],
          [{}, { image: flat(0, 0, 255) }],
        ],
        { cell: 100 },
      ),
    )
    const [red, green, blue] = [sheet.box(255, 0, 0)!, sheet.box(0, 255, 0)!, sheet.box(0, 0, 255)!]
    for (const [left, top, right, bottom] of [red, green, blue]) {
      expect(right! - left! + 1).toBe(100)
      expect(bottom! - top! + 1).toBe(100)
    }
    expect(green[1]).toBe(red[1])
    expect(green[0]).toBeGreaterThan(red[2]!)
    expect(blue[0]).toBe(green[0])
    expect(blue[1]).toBeGreaterThan(green[3]!)
    expect(sheet.width).toBeGreaterThan(green[2]!)
    expect(sheet.height).toBeGreaterThan(blue[3]!)
  })

  it('keeps the shape of a picture', async () => {
    const sheet = await decode(await contactSheet([[{ image: flat(255, 0, 0, 64, 32) }]], { cell: 100 }))
    const [left, top, right, bottom] = sheet.box(255, 0, 0)!
    expect(right! - left! + 1).toBe(100)
    expect(bottom! - top! + 1).toBe(50)
  })

  it('makes room for words and takes any, however they look in XML', async () => {
    const cells = [[{ image: flat(255, 0, 0), label: '<alice> & "co" \u0000 \ud800 😀' }]]
    const plain = await decode(await contactSheet([[{ image: flat(255, 0, 0) }]]))
    const worded = await decode(
      await contactSheet(cells, {
        title: '</text></svg>',
        subtitle: "it's <b>",
        rows: ['<row>'],
        columns: [{ text: '&', span: 1 }],
        photo: flat(0, 255, 0),
      }),
    )
    expect(worded.height).toBeGreaterThan(plain.height)
    const [photo, picture] = [worded.box(0, 255, 0)!, worded.box(255, 0, 0)!]
    expect(photo[3]).toBeLessThan(picture[1]!)
  })

  it('sets groups of columns apart', async () => {
    const row = [{ image: flat(255, 0, 0) }, { image: flat(0, 255, 0) }, { image: flat(0, 0, 255) }]
    const gaps = async (columns: { text: string; span: number }[]): Promise<number[]> => {
      const sheet = await decode(await contactSheet([row], { columns, cell: 100 }))
      const [red, green, blue] = [sheet.box(255, 0, 0)!, sheet.box(0, 255, 0)!, sheet.box(0, 0, 255)!]
      return [green[0]! - red[2]!, blue[0]! - green[2]!]
    }
    const [within, between] = await gaps([
      { text: 'a', span: 2 },
      { text: 'b', span: 1 },
    ])
    expect(between).toBeGreaterThan(within! + 10)
    const [one, other] = await gaps(['a', 'b', 'c'].map((text) => ({ text, span: 1 })))
    expect(one).toBe(other)
  })

  it('is a sheet of nothing too', async () => {
    expect((await decode(await contactSheet([]))).width).toBeGreaterThan(0)
  })
})

describe('text', () => {
  const style = { size: 10, weight: 400, line: 12 }

  it('is broken between words', () => {
    expect(wrapText('a photo of a person', 60, style, 4)).toEqual(['a photo of', 'a person'])
  })

  it('is cut with an ellipsis where there is no room', () => {
    expect(wrapText('one two three four five six', 60, style, 2)).toEqual(['one two', 'three fou…'])
    expect(wrapText('x'.repeat(50), 60, style, 2)).toEqual([`${'x'.repeat(9)}…`])
  })
})

// Fonts are read once a process: this needs one of its own.
it('leaves the words out where the machine has no fonts', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'swap-fonts-'))
  writeFileSync(join(folder, 'fonts.conf'), '<?xml version="1.0"?><fontconfig></fontconfig>')
  const lib = join(packageRoot(), 'lib', 'image', 'sheet.ts')
  const { outputFiles } = await build({
    stdin: {
      contents: `import { contactSheet } from ${JSON.stringify(lib)}
        const image = { data: new Uint8Array(3 * 8 * 8), width: 8, height: 8 }
        const bare = await contactSheet([[{ image }]])
        const worded = await contactSheet([[{ image, label: 'label' }]], { title: 'title', rows: ['row'] })
        console.log(bare.equals(worded))`,
      resolveDir: packageRoot(),
    },
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'node',
    packages: 'external',
  })
  const same = execFileSync(process.execPath, ['--input-type=module', '-e', outputFiles[0]!.text], {
    cwd: packageRoot(),
    env: { ...process.env, FONTCONFIG_FILE: join(folder, 'fonts.conf') },
    encoding: 'utf8',
  })
  expect(same.trim()).toBe('true')
})
