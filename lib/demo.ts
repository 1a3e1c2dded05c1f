/**
 * `npm run demo`: learns a person that the embedded model has never seen from one picture, and draws a contact
 * sheet of what the bare class word gives and what the learnt subject gives, seed by seed.
 */

import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { duration, megabytes, type Output, timeLeft } from './cli/output.ts'
import { run } from './cli/run.ts'
import { contactSheet, readPhoto } from './image/index.ts'
import { type GeneratedImage, Personalizer, type Subject } from './index.ts'
import { packageRoot } from './paths.ts'

/** Which of the unseen people, unless the command line says another. */
const PERSON = 0
const NAME = 'subject'
const CLASS = 'person'
const SEEDS = 2
const FIRST_SEED = 2

/** `{}` is the class word or the subject, so that the two columns differ in nothing else. */
const PROMPTS = [
  { title: 'at the beach', prompt: 'a photo of a {} at the beach' },
  { title: 'wearing sunglasses', prompt: 'a photo of a {} wearing sunglasses' },
  { title: 'holding a balloon', prompt: 'a photo of a {} holding a balloon' },
  { title: 'in space', prompt: 'a photo of a {} in space' },
  { title: 'with a dog in the park', prompt: 'a photo of a {} and a dog in the park' },
  { title: 'wearing a party hat in the city', prompt: 'a photo of a {} wearing a party hat in the city' },
]

/** Runs a part and says how long it took. */
async function timed<T>(output: Output, what: string, work: () => Promise<T>): Promise<T> {
  const started = Date.now()
  const result = await work()
  output.endProgress()
  output.note(`${what}: ${duration((Date.now() - started) / 1000)}`)
  return result
}

async function learn(personalizer: Personalizer, photo: string, output: Output, signal: AbortSignal): Promise<Subject> {
  const job = personalizer.learn({ image: photo, name: NAME, class: CLASS }, { signal })
  for await (const { step, steps, loss, secondsLeft } of job) {
    const detail = `loss ${loss.toFixed(4)}${timeLeft(secondsLeft)}`
    output.progress('learning', { done: step, total: steps, detail })
  }
  const subject = await job
  for (const warning of job.warnings) output.warn(warning)
  return subject
}

interface Row {
  title: string
  bare: GeneratedImage[]
  learnt: GeneratedImage[]
}

async function draw(personalizer: Personalizer, subject: Subject, output: Output, signal: AbortSignal): Promise<Row[]> {
  const rows: Row[] = []
  const pictures = async (prompt: string, subjects: Subject[]): Promise<GeneratedImage[]> => {
    const images = await personalizer.generate({ prompt, subjects, seed: FIRST_SEED, count: SEEDS }, { signal })
    return images
  }
  const total = PROMPTS.length * 2 * SEEDS
  for (const { title, prompt } of PROMPTS) {
    const bare = await pictures(prompt.replace('{}', CLASS), [])
    const learnt = await pictures(prompt.replace('{}', `<${NAME}>`), [subject])
    rows.push({ title, bare, learnt })
    const done = rows.length * 2 * SEEDS
    output.progress('drawing', { done, total, detail: `${done} of ${total} pictures` })
  }
  return rows
}

async function keep(folder: string, rows: Row[]): Promise<void> {
  for (const { title, bare, learnt } of rows) {
    const stem = title.replaceAll(' ', '-')
    for (const [kind, images] of [
      [CLASS, bare],
      [NAME, learnt],
    ] as const)
      for (const image of images) await image.save(join(folder, `${stem}-${kind}-seed${image.seed}.png`))
  }
}

const person = process.argv[2] ?? String(PERSON)
const photo = /^\d+$/.test(person) ? join(packageRoot(), 'models', 'mini', 'people', `${person}.png`) : person
const folder = join(packageRoot(), 'demo-out')

void run({}, async ({ output, signal }) => {
  const started = Date.now()
  await mkdir(folder, { recursive: true })
  const personalizer = await timed(output, 'opening the model', () => Personalizer.open({ model: 'mini' }, { signal }))
  try {
    const { info } = personalizer
    output.note(
      `${info.parameters.toLocaleString('en')} parameters (${megabytes(info.weightBytes)}) on ${info.device} in ${info.dtype}, ${info.threads} threads`,
    )
    const subject = await timed(output, 'learning from one photo', () => learn(personalizer, photo, output, signal))
    const file = join(folder, `${NAME}.safetensors`)
    await subject.save(file)
    const rows = await timed(output, 'drawing', () => draw(personalizer, subject, output, signal))
    await keep(folder, rows)

    const { image, original } = await readPhoto(photo, { size: info.resolution, crop: 'center' })
    const { steps, attentionWeight, conditioning } = subject.metadata
    const sheet = await contactSheet(
      rows.map(({ bare, learnt }) => [...bare, ...learnt].map((made) => ({ image: made, label: `seed ${made.seed}` }))),
      {
        title: 'One photo, six prompts',
        subtitle:
          `Left: the photo (${original.width} × ${original.height}), all that <${NAME}> was learnt from: ${steps} steps, ${subject.stages} stages, ` +
          `${conditioning} keys and values, attention weight ${attentionWeight}. Below, with the same seeds: the bare word “${CLASS}”, and <${NAME}> in its place.`,
        photo: image,
        columns: [
          { text: `“${CLASS}”`, span: SEEDS },
          { text: `<${NAME}>`, span: SEEDS },
        ],
        rows: PROMPTS.map(({ title }) => title),
      },
    )
    const path = join(folder, 'contact-sheet.png')
    await writeFile(path, sheet)
    output.note(`all of it: ${duration((Date.now() - started) / 1000)}`)
    output.result({ sheet: path, subject: file }, `\nthe contact sheet: ${path}\nthe subject:       ${file}`)
  } finally {
    await personalizer.close()
  }
})
