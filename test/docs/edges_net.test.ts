/** The ControlNet that tools/control trained: what is drawn along edges has them, of a subject too. */
import { join } from 'node:path'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Personalizer, type Subject } from '../../lib/index.ts'
import { packageRoot } from '../../lib/paths.ts'

const net = join(packageRoot(), 'tools', 'control', 'edges')
/** Of what, and a prompt that says nothing else. */
const DRAWINGS = [
  ['a photo of a person in space', 'a photo of a person in space'],
  ['a photo of a person at the beach', 'a photo of a person'],
] as const
/** Of 255, between neighbours: less is no edge. */
const STEEP = 24

const drawing = (name: string): string => join(packageRoot(), 'tools', 'control', 'drawings', `${name}.png`)

/** Of the edges' pixels, those within one of which the picture is steep. */
async function share(edges: string, picture: Buffer): Promise<number> {
  const grey = async (from: string | Buffer) =>
    await sharp(from).greyscale().raw().toBuffer({ resolveWithObject: true })
  const [asked, drawn] = [await grey(edges), await grey(picture)]
  const { width, height } = asked.info
  const at = (x: number, y: number) =>
    drawn.data[Math.min(height - 1, Math.max(0, y)) * width + Math.min(width - 1, Math.max(0, x))]!
  const steep = (x: number, y: number) =>
    Math.abs(at(x + 1, y) - at(x - 1, y)) + Math.abs(at(x, y + 1) - at(x, y - 1)) > STEEP
  const around = [-1, 0, 1].flatMap((dy) => [-1, 0, 1].map((dx) => [dx, dy] as const))
  const places = Array.from(asked.data.keys()).filter((place) => asked.data[place]! > 127)
  const found = places.filter((place) =>
    around.some(([dx, dy]) => steep((place % width) + dx, Math.floor(place / width) + dy)),
  )
  return found.length / places.length
}

describe('the embedded model’s edge ControlNet', () => {
  let personalizer: Personalizer
  let alice: Subject

  beforeAll(async () => {
    personalizer = await Personalizer.open()
    const image = join(packageRoot(), 'models', 'mini', 'people', '0.png')
    alice = await personalizer.learn({ image, class: 'person', name: 'alice', steps: 5 })
  })
  afterAll(() => personalizer?.close())

  test.each(DRAWINGS)('%s', async (name, prompt) => {
    const image = drawing(name)
    const along = async (prompt: string, scale: number) => {
      const control = [{ model: net, image, scale }]
      const [picture] = await personalizer.generate({ prompt, subjects: [alice], control, seed: 1, steps: 12 })
      return await share(image, await picture!.toBuffer('png'))
    }
    const without = await along(prompt, 0)
    expect(await along(prompt, 1)).toBeGreaterThan(without + 0.25)
    expect(await along(prompt.replace('person', '<alice>'), 1)).toBeGreaterThan(without + 0.25)
  })
})
