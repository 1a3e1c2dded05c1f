/** The examples of the pages about ways to generate, as they stand there, on the embedded model. */
import { copyFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { Personalizer } from '../../lib/index.ts'
import { packageRoot } from '../../lib/paths.ts'
import { miniParts, pack } from '../limits/adapters.ts'
import { examples, project, runExample } from './kit.ts'

/** Pictures that are there before an example runs. */
const GIVEN = ['me.png', 'mask.png', 'edges.png']
const PAGES = ['img2img', 'inpaint', 'controlnet', 'lora', 'single-files', 'lcm', 'prompts']
const root = packageRoot()
const photo = join(root, 'models', 'mini', 'people', '0.png')

let subject: Buffer
let embedding: Buffer
let folder: string

beforeAll(async () => {
  const personalizer = await Personalizer.open()
  try {
    const learnt = await personalizer.learn({ image: photo, class: 'person', name: 'alice', steps: 1 })
    subject = learnt.toBuffer()
    embedding = learnt.toBuffer({ format: 'diffusers' })
  } finally {
    await personalizer.close()
  }
})

/** What a reader has at hand: the package, a photo, a mask, a subject, a LoRA, a ControlNet, the model as a single file. */
beforeEach(async () => {
  folder = project()
  copyFileSync(photo, join(folder, 'me.png'))
  writeFileSync(join(folder, 'alice.safetensors'), subject)
  writeFileSync(join(folder, 'cat-toy.safetensors'), embedding)
  copyFileSync(join(root, 'tools', 'lora', 'duotone.safetensors'), join(folder, 'style.safetensors'))
  writeFileSync(join(folder, 'mini.safetensors'), pack(await miniParts()))
  const white = { create: { width: 80, height: 40, channels: 3 as const, background: '#fff' } }
  await sharp({ create: { width: 128, height: 128, channels: 3, background: '#000' } })
    .composite([{ input: white, left: 24, top: 32 }])
    .toFile(join(folder, 'mask.png'))
  copyFileSync(
    join(root, 'tools', 'control', 'drawings', 'a photo of a person at the beach.png'),
    join(folder, 'edges.png'),
  )
  symlinkSync(join(root, 'tools', 'control', 'edges'), join(folder, 'edges'), 'junction')
  return () => rmSync(folder, { recursive: true, force: true })
})

afterAll(() => {
  expect(PAGES.flatMap((page) => examples(page, 'js'))).not.toEqual([])
})

/** Runs an example on the engine itself, and looks at the pictures that it says it writes. */
async function expectPictures(code: string, language: 'js' | 'sh'): Promise<void> {
  const { SWAP_ENGINE_LIBRARY = '' } = process.env
  const { code: end, stderr } = await runExample(code, language, folder, { SWAP_ENGINE_LIBRARY })
  expect(end, stderr).toBe(0)
  const names = [...code.matchAll(/[\w-]+\.png/g)].map(([name]) => name)
  const written = names.filter((name) => !GIVEN.includes(name))
  expect(written).not.toEqual([])
  for (const name of written) {
    expect((await sharp(join(folder, name)).stats()).entropy, name).toBeGreaterThan(1)
  }
}

const numbered = (codes: string[]) => codes.map((code, index) => [index + 1, code] as const)

describe.each(PAGES)('docs/%s.md', (page) => {
  test.each(numbered(examples(page, 'js')))('program %i', (_, code) => expectPictures(code, 'js'))
  test.each(numbered(examples(page, 'sh')))('command %i', (_, code) => expectPictures(code, 'sh'))
})

test("docs/embeddings.md, another program's embedding in a prompt", () =>
  expectPictures(examples('embeddings', 'js')[0]!, 'js'))
