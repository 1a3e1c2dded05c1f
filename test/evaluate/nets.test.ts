/** Nets by ONNX Runtime. Without onnxruntime-node these tests are skipped, and say so. */
import { mkdtempSync, readdirSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { readCard } from '../../lib/evaluate/card.ts'
import { Evaluator } from '../../lib/evaluate/evaluator.ts'
import { Net } from '../../lib/evaluate/runtime.ts'
import { openClip } from '../../lib/evaluate/scorers.ts'
import { packageRoot } from '../../lib/paths.ts'

const goldens = join(packageRoot(), 'test', 'evaluate', 'goldens')
const nets = join(packageRoot(), 'models', 'measure')

function installed(): boolean {
  try {
    createRequire(import.meta.url).resolve('onnxruntime-node')
    return true
  } catch {
    return false
  }
}
if (!installed()) console.warn('onnxruntime-node is not installed: the tests of nets are skipped')
const withRuntime = test.skipIf(!installed())

test('without ONNX Runtime the error says what to install', async () => {
  const missing = async (): Promise<unknown> => {
    throw new Error("Cannot find package 'onnxruntime-node'")
  }
  await expect(Net.open(join(goldens, 'clip-image.onnx'), 1, missing)).rejects.toMatchObject({
    code: 'SWAP_EVALUATE_RUNTIME',
    hint: expect.stringContaining('npm install onnxruntime-node'),
  })
})

test('cards: no JSON, no kind, a word for no field, a net of the wrong kind, no such file', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'swap-card-'))
  const card = (text: string): string => {
    const path = join(folder, 'card.json')
    writeFileSync(path, text)
    return path
  }
  const fields = [{ name: 'eyes', values: ['open', 'shut'] }]
  const words = [{ says: ['blind'], field: 'eyes', values: ['gone'] }]
  for (const text of [
    'ONNX',
    '{"kind":"tarot","net":"a.onnx","size":8}',
    '{"kind":"identity","size":8}',
    JSON.stringify({ kind: 'classifier', net: 'a.onnx', size: 8, fields, words }),
  ])
    await expect(readCard(card(text))).rejects.toMatchObject({ code: 'SWAP_EVALUATE_CARD' })
  await expect(readCard(join(folder, 'none.json'))).rejects.toMatchObject({ code: 'SWAP_FILE_NOT_FOUND' })
  const identity = card('{"kind":"identity","net":"a.onnx","size":8}')
  await expect(Evaluator.open({ prompt: identity })).rejects.toMatchObject({ code: 'SWAP_EVALUATE_CARD' })
  await expect(Evaluator.open({ identity })).rejects.toMatchObject({ code: 'SWAP_EVALUATE_NET' })
})

withRuntime('CLIP by two ONNX files scores as transformers does', async () => {
  const { picture, prompts, scores } = JSON.parse(await readFile(join(goldens, 'expected.json'), 'utf8')) as {
    picture: number[]
    prompts: string[]
    scores: number[]
  }
  const { card, beside } = await readCard(join(goldens, 'clip.json'))
  if (card.kind !== 'clip') throw new Error('not the card that was written')
  const clip = await openClip(card, beside, 1)
  const image = { data: Uint8Array.from(picture), width: 32, height: 32 }
  const found = await clip.score(
    prompts.map(() => image),
    prompts,
  )
  await clip.close()
  expect(Math.abs(scores[0]! - scores[1]!)).toBeGreaterThan(0.01)
  scores.forEach((score, k) => {
    expect(found[k]).toBeCloseTo(score, 5)
  })
})

withRuntime('a file that is no net, and a card whose size the net refuses', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'swap-net-'))
  writeFileSync(join(folder, 'a.onnx'), 'not a net')
  writeFileSync(join(folder, 'a.json'), '{"kind":"identity","net":"a.onnx","size":8}')
  await expect(Evaluator.open({ identity: join(folder, 'a.json') })).rejects.toMatchObject({
    code: 'SWAP_EVALUATE_NET',
  })
  const wrong = { kind: 'identity', net: join(goldens, 'clip-image.onnx'), size: 48 }
  writeFileSync(join(folder, 'b.json'), JSON.stringify(wrong))
  const evaluator = await Evaluator.open({ identity: join(folder, 'b.json') })
  await expect(evaluator.embed([join(goldens, 'man.png')])).rejects.toMatchObject({ code: 'SWAP_EVALUATE_NET' })
  await evaluator.close()
})

withRuntime('the embedded nets know a person again and read a picture', async () => {
  // Drawn by tools/world: one man twice, and a woman.
  const evaluator = await Evaluator.open()
  const prompts = [
    'a man wearing sunglasses at the beach',
    'a woman wearing sunglasses at the beach',
    'a man wearing sunglasses in the snow',
    'a man and a dog at the beach',
    'something',
  ]
  const { pictures, idp } = await evaluator.evaluate({
    photo: join(goldens, 'man.png'),
    pictures: [
      { image: join(goldens, 'man.png'), prompt: 'a photo of a man' },
      { image: join(goldens, 'woman-snow.png'), prompt: 'a photo of a woman in the snow' },
      ...prompts.map((prompt) => ({ image: join(goldens, 'man-beach.png'), prompt })),
    ],
  })
  const [self, woman, beach] = pictures
  expect(self!.identity).toBeCloseTo(1, 5)
  expect(beach!.identity).toBeGreaterThan(woman!.identity + 0.2)
  expect(pictures.map(({ passes }) => passes)).toEqual([true, true, true, false, false, false, false])
  expect(pictures.at(-1)!.prompt).toBeUndefined()
  expect(idp!.count).toBe(3)
  await evaluator.close()
  await expect(evaluator.embed([join(goldens, 'man.png')])).rejects.toMatchObject({ code: 'SWAP_DISPOSED' })
})

withRuntime('the cards of the embedded nets carry measured figures, and the files are small', async () => {
  for (const name of readdirSync(nets).filter((file) => file.endsWith('.json'))) {
    const card = JSON.parse(await readFile(join(nets, name), 'utf8')) as Record<string, unknown>
    expect(Object.keys(card.figures as object).length).toBeGreaterThan(2)
    expect(card.limits).toBeTruthy()
    expect((await readFile(join(nets, card.net as string))).length).toBeLessThan(4e6)
  }
})
