// node compare.mjs --subjects DIR --out DIR [--model DIR] [--only 0,1] [--sheet FILE] [--figures FILE]
// The method beside plain Textual Inversion: every subject of tools/world/people.mjs is learnt from its one photo by both,
// drawn with the same prompts and seeds, and scored by the measuring nets (needs onnxruntime-node; build the package
// first). What is there already is not made again, so the command can be stopped at any time. Settings other than the
// model's own: --method '{"steps":300}' and --inversion '{"learningRate":0.002}', in learn()'s options. To choose among
// settings (on other subjects than those that are reported): --settings FILE, a JSON object of names and learn()'s options;
// its figures are a list of sweeps, to which this one is added under --title.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Evaluator, Personalizer, Subject } from '../../../dist/index.js'
import { grid } from './grid.mjs'

const { values } = parseArgs({
  options: {
    subjects: { type: 'string' },
    out: { type: 'string' },
    model: { type: 'string', default: 'mini' },
    only: { type: 'string' },
    seeds: { type: 'string', default: '2' },
    method: { type: 'string', default: '{}' },
    inversion: { type: 'string', default: '{}' },
    settings: { type: 'string' },
    title: { type: 'string', default: '' },
    nets: { type: 'string' },
    sheet: { type: 'string' },
    figures: { type: 'string' },
    threads: { type: 'string', default: '1' },
  },
})

const METHODS = values.settings
  ? JSON.parse(readFileSync(values.settings, 'utf8'))
  : {
      method: JSON.parse(values.method),
      inversion: {
        conditioning: 'shared',
        parametrization: 'direct',
        stages: 1,
        attention: { weight: 0 },
        ...JSON.parse(values.inversion),
      },
      isolated: {},
    }
/** How pictures are drawn, in generate()'s options: plain Textual Inversion has but its vector. */
const DRAWN = { inversion: { isolate: false }, isolated: { isolate: true } }
/** Whose subject it is, where it is not learnt anew: what does `isolate` do for Textual Inversion? */
const LEARNT = { isolated: 'inversion' }
const TITLES = { method: 'the method', inversion: 'Textual Inversion' }

/** `{}` is the subject, or in the scorer's prompt its class word. */
const PROMPTS = {
  person: [
    'a photo of a {} at the beach',
    'a photo of a {} in space',
    'a photo of a {} wearing sunglasses in the snow',
    'a photo of a {} wearing a party hat',
    'a photo of a {} holding a balloon in the park',
    'a photo of a {} and a dog in the forest',
    'a photo of a {} laughing in the city',
    'a line drawing of a {}',
  ],
  thing: [
    'a photo of a {} at the beach',
    'a photo of a {} in space',
    'a photo of a {} in the snow',
    'a photo of a {} in the city',
    'a photo of a {} in the desert',
    'a photo of a {} in the forest',
    'a photo of a {} at sunset',
    'a photo of a {} in a garage',
  ],
}

const known = JSON.parse(readFileSync(join(values.subjects, 'people.json'), 'utf8'))
const subjects = known.map((who, number) => ({
  number,
  photo: join(values.subjects, `${number}.png`),
  class: who.kind ?? 'person',
  group: who.kind ? 'things' : who.drawing ? 'inked' : 'people',
  prompts: PROMPTS[who.kind ? 'thing' : 'person'],
}))
const chosen = values.only ? values.only.split(',').map((k) => subjects[Number(k)]) : subjects
const seeds = Array.from({ length: Number(values.seeds) }, (_, k) => k + 1)

let personalizer
const open = async () => {
  personalizer ??= await Personalizer.open({ model: values.model, threads: Number(values.threads) })
  return personalizer
}

const settings = (method) => ({ ...METHODS[method] })
const folderOf = (subject, method) => join(values.out, String(subject.number), method)
const pictureOf = (subject, method, prompt, seed) =>
  join(folderOf(subject, method), `${prompt.replaceAll('{}', 'x').replaceAll(' ', '-')}-${seed}.png`)

async function make(subject, method) {
  const folder = folderOf(subject, method)
  mkdirSync(folder, { recursive: true })
  const file = join(folderOf(subject, LEARNT[method] ?? method), 'subject.safetensors')
  const timesFile = join(folder, 'times.json')
  const asked = JSON.stringify({ options: settings(method), model: values.model })
  const drawn = JSON.stringify(DRAWN[method] ?? {})
  const times = existsSync(timesFile) ? JSON.parse(readFileSync(timesFile, 'utf8')) : { asked, pictures: [] }
  if (times.asked !== asked) throw new Error(`${folder} was made with ${times.asked}: choose another --out`)
  // Folders from before this was kept say nothing of it.
  if (times.pictures.length > 0 && (times.drawn ?? drawn) !== drawn) {
    throw new Error(`the pictures of ${folder} were drawn with ${times.drawn}: choose another --out`)
  }
  times.drawn = drawn
  const keep = () => writeFileSync(timesFile, `${JSON.stringify(times)}\n`)
  if (!existsSync(file)) {
    const p = await open()
    const started = performance.now()
    const learnt = await p.learn({
      image: subject.photo,
      name: 'subject',
      class: subject.class,
      seed: subject.number,
      ...settings(method),
    })
    times.learn = (performance.now() - started) / 1000
    keep()
    await learnt.save(file)
  }
  let learnt
  for (const prompt of subject.prompts)
    for (const seed of seeds) {
      const picture = pictureOf(subject, method, prompt, seed)
      if (existsSync(picture)) continue
      learnt ??= await Subject.load(file)
      const p = await open()
      const started = performance.now()
      const words = prompt.replace('{}', '<subject>')
      const [image] = await p.generate({ prompt: words, subjects: [learnt], seed, ...DRAWN[method] })
      times.pictures.push((performance.now() - started) / 1000)
      await image.save(picture)
      keep()
    }
  return times
}

async function score(evaluator, subject, method) {
  const pictures = subject.prompts.flatMap((prompt) =>
    seeds.map((seed) => ({
      image: pictureOf(subject, method, prompt, seed),
      prompt: prompt.replace('{}', subject.class),
    })),
  )
  return (await evaluator.evaluate({ photo: subject.photo, pictures })).pictures
}

/** The mean over the chosen pictures; subjects weigh by how many of theirs are chosen. */
const meanOf = (groups, of) => {
  const all = groups.flat().map(of).filter(Number.isFinite)
  return all.length > 0 ? all.reduce((a, b) => a + b, 0) / all.length : Number.NaN
}

/** Method minus inversion on the same subjects, with its interval over subjects drawn again and again. */
function difference(pairs, of) {
  const apart = (drawn) =>
    meanOf(
      drawn.map(([a]) => a),
      of,
    ) -
    meanOf(
      drawn.map(([, b]) => b),
      of,
    )
  let state = 1
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
  const found = Array.from({ length: 2000 }, () =>
    apart(pairs.map(() => pairs[Math.floor(random() * pairs.length)])),
  ).filter(Number.isFinite)
  found.sort((a, b) => a - b)
  const at = (share) => found[Math.floor(share * (found.length - 1))] ?? null
  const mean = apart(pairs)
  return { mean: Number.isFinite(mean) ? mean : null, low: at(0.025), high: at(0.975) }
}

const evaluator = await Evaluator.open(
  values.nets ? { identity: join(values.nets, 'identity.json'), prompt: join(values.nets, 'classifier.json') } : {},
)
const results = []
for (const subject of chosen) {
  const scores = {}
  const times = {}
  for (const method of Object.keys(METHODS)) {
    times[method] = await make(subject, method)
    scores[method] = await score(evaluator, subject, method)
    const { identity, passed, idp } = Evaluator.summarise([scores[method]])
    console.log(
      `${subject.number} ${subject.class} ${method}: identity ${identity.mean.toFixed(3)}, obeyed ${(100 * passed.mean).toFixed(0)} %, ID(P) ${idp?.mean.toFixed(3) ?? '-'}`,
    )
  }
  results.push({ subject, scores, times })
}
await personalizer?.close()
await evaluator.close()

const rounded = (value) => JSON.parse(JSON.stringify(value, (_, v) => (typeof v === 'number' ? +v.toFixed(4) : v)))
const figures = { prompts: PROMPTS.person.length, seeds: seeds.length, settings: METHODS, groups: {} }
const groups = { ...Object.groupBy?.(results, ({ subject }) => subject.group) }
if (!Object.groupBy) for (const r of results) groups[r.subject.group] = [...(groups[r.subject.group] ?? []), r]
for (const [group, list] of Object.entries(groups)) {
  const sums = (method) => {
    const { identity, prompt, passed, idp } = Evaluator.summarise(list.map(({ scores }) => scores[method]))
    return { identity, prompt, passed, idp: idp ?? null }
  }
  const scored = Object.fromEntries(Object.keys(METHODS).map((method) => [method, sums(method)]))
  if (values.settings) {
    figures.groups[group] = rounded({ subjects: list.length, ...scored })
    continue
  }
  const pairs = list.map(({ scores }) => [scores.method, scores.inversion])
  figures.groups[group] = rounded({
    subjects: list.length,
    ...scored,
    methodMinusInversion: {
      identity: difference(pairs, (picture) => picture.identity),
      prompt: difference(pairs, (picture) => picture.prompt ?? Number.NaN),
      idp: difference(pairs, (picture) => (picture.passes ? picture.identity : Number.NaN)),
    },
  })
}
const seconds = (method) => {
  const middle = (list) => list.sort((a, b) => a - b)[list.length >> 1] ?? null
  return {
    learn: middle(results.map(({ times }) => times[method].learn).filter(Boolean)),
    picture: middle(results.flatMap(({ times }) => times[method].pictures)),
  }
}
figures.seconds = rounded({
  threads: Number(values.threads),
  ...Object.fromEntries(Object.keys(METHODS).map((method) => [method, seconds(method)])),
})
console.log(JSON.stringify(figures, null, 1))
if (values.figures) {
  const all = existsSync(values.figures) ? JSON.parse(readFileSync(values.figures, 'utf8')) : {}
  if (values.settings) {
    const others = (all.sweeps ?? []).filter(({ title }) => title !== values.title)
    all.sweeps = [...others, { title: values.title, ...figures }]
  } else all.subjects = figures
  writeFileSync(values.figures, `${JSON.stringify(all, null, 1)}\n`)
}
if (values.sheet) {
  // People and things have other prompts: where the columns' words do not hold, the pictures say theirs.
  const same = new Set(chosen.map(({ prompts }) => prompts)).size === 1
  const shown = Object.keys(values.settings ? METHODS : TITLES)
  const rows = chosen.flatMap((subject) =>
    shown.map((method, k) => [
      { picture: k === 0 ? subject.photo : undefined, label: same ? undefined : subject.class },
      ...subject.prompts.map((prompt) => ({
        picture: pictureOf(subject, method, prompt, seeds[0]),
        label: same ? undefined : prompt.replace('{}', `<${subject.class}>`),
      })),
    ]),
  )
  const columns = same ? ['the photo', ...chosen[0].prompts.map((prompt) => prompt.replace('{}', '<subject>'))] : []
  await grid(values.sheet, rows, { columns })
  const titles = shown.map((method) => (values.settings ? method : TITLES[method]))
  console.log(`${values.sheet}: for each subject a row of ${titles.join(', then one of ')}`)
}
