/** The examples of the pages about ways to generate, as they stand there, on the embedded model. */
import { execFile } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import sharp from 'sharp'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { Personalizer } from '../../lib/index.ts'
import { packageRoot } from '../../lib/paths.ts'
import { miniParts, pack } from '../limits/adapters.ts'

/** Pictures that are there before an example runs. */
const GIVEN = ['me.png', 'mask.png', 'edges.png']
const PAGES = ['img2img', 'inpaint', 'controlnet', 'lora', 'single-files', 'lcm', 'prompts']
const root = packageRoot()
const photo = join(root, 'models', 'mini', 'people', '0.png')

let subject: Buffer
let folder: string

beforeAll(async () => {
  const personalizer = await Personalizer.open()
  try {
    subject = (await personalizer.learn({ image: photo, class: 'person', name: 'alice', steps: 1 })).toBuffer()
  } finally {
    await personalizer.close()
  }
})

/** What a reader has at hand: the package, a photo, a mask, a subject, a LoRA, a ControlNet, the model as a single file. */
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'swap-docs-'))
  const installed = join(folder, 'node_modules', '@swap', 'native')
  mkdirSync(dirname(installed), { recursive: true })
  symlinkSync(root, installed, 'junction')
  copyFileSync(photo, join(folder, 'me.png'))
  writeFileSync(join(folder, 'alice.safetensors'), subject)
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
  expect(PAGES.flatMap((page) => blocks(page, 'js'))).not.toEqual([])
})

function blocks(page: string, language: 'js' | 'sh'): string[] {
  const text = readFileSync(join(root, 'docs', `${page}.md`), 'utf8')
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map(([, code]) => code!)
}

const run = (command: string, ...words: string[]) => promisify(execFile)(command, words, { cwd: folder })

/** The pictures that an example says it writes. */
async function expectPictures(code: string): Promise<void> {
  const names = [...code.matchAll(/[\w-]+\.png/g)].map(([name]) => name)
  const written = names.filter((name) => !GIVEN.includes(name))
  expect(written).not.toEqual([])
  for (const name of written) {
    expect((await sharp(join(folder, name)).stats()).entropy, name).toBeGreaterThan(1)
  }
}

describe.each(PAGES)('docs/%s.md', (page) => {
  test.each(blocks(page, 'js').map((code, index) => [index + 1, code] as const))('program %i', async (_, code) => {
    writeFileSync(join(folder, 'example.mjs'), code)
    await run(process.execPath, 'example.mjs')
    await expectPictures(code)
  })

  test.each(blocks(page, 'sh').map((code, index) => [index + 1, code] as const))('command %i', async (_, code) => {
    const swap = `${JSON.stringify(process.execPath)} ${JSON.stringify(join(root, 'dist', 'cli.cjs'))}`
    await run('sh', '-ec', code.replaceAll('npx swap', swap))
    await expectPictures(code)
  })
})
