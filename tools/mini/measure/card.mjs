// node card.mjs --figures FILE --readme FILE [--log unet-log.jsonl] [--check]
// Writes the figures of a model card between its marks, from the file that the measures keep: nothing there is typed by hand.
// With --log, how much the U-Net has seen goes into the file of figures first. With --check nothing is written, and a card
// that does not say what the file says is an error.

import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'

const { values } = parseArgs({
  options: {
    figures: { type: 'string' },
    readme: { type: 'string' },
    log: { type: 'string' },
    check: { type: 'boolean', default: false },
  },
})

const figures = JSON.parse(readFileSync(values.figures, 'utf8'))
if (values.log) {
  const seen = readFileSync(values.log, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
    .filter((line) => line.seen)
    .at(-1).seen
  figures.trained = { samples: seen }
  writeFileSync(values.figures, `${JSON.stringify(figures, null, 1)}\n`)
}
const folder = dirname(values.readme)

const percent = (share) => `${(100 * share).toFixed(0)} %`
const hits = ({ share, low, high, count }) =>
  `${percent(share)} (${(100 * low).toFixed(0)} to ${(100 * high).toFixed(0)}) of ${count}`
const mean = (e, digits = 2) =>
  e ? `${e.mean.toFixed(digits)} (${e.low.toFixed(2)} to ${e.high.toFixed(2)})` : 'no picture'
const apart = (e) => (e.mean === null ? '–' : `${e.mean.toFixed(3)} (${e.low.toFixed(3)} to ${e.high.toFixed(3)})`)
const table = (head, rows) => [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n')

/** Numbers in the safetensors files of a part, from their headers. */
function parameters(part) {
  let sum = 0
  for (const name of readdirSync(join(folder, part)).filter((file) => file.endsWith('.safetensors'))) {
    const bytes = readFileSync(join(folder, part, name))
    const header = JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE(0))).toString())
    for (const [key, { shape }] of Object.entries(header))
      if (key !== '__metadata__') sum += shape.reduce((a, b) => a * b, 1)
  }
  return sum
}
const megabytes = (part) =>
  readdirSync(join(folder, part)).reduce((sum, file) => sum + statSync(join(folder, part, file)).size, 0) / 1e6

/** Settings other than the model's own. */
const of = (settings) =>
  Object.keys(settings).length > 0 ? ` with ${JSON.stringify(settings)}` : " with the model's settings"
const learningRate = (settings) => {
  const { conditioning, parametrization, stages, attention, ...more } = settings
  return Object.keys(more).length > 0 ? `; ${JSON.stringify(more)}` : ''
}

/** How one of the settings of a sweep did, next to the others. */
const swept = (groups) => {
  const names = Object.keys(groups.people).filter((name) => name !== 'subjects')
  const row = (name) => ['identity', 'prompt', 'passed', 'idp'].map((figure) => mean(groups.people[name][figure]))
  return table(
    ['setting', 'identity', 'prompt', 'prompt passed', 'ID(P)'],
    names.map((name) => [name, ...row(name)]),
  )
}

const PARTS = ['text_encoder', 'unet', 'vae']
const GROUPS = {
  scene: 'scene',
  kind: 'subject kind',
  attribute: 'single attribute',
  held: 'held object',
  'unseen pair': 'attribute and scene, a pair never seen together',
  'two people': 'two people',
}
const SIDES = { method: 'the method', inversion: 'Textual Inversion', isolated: 'the same, drawn with `isolate`' }
const WHO = {
  people: 'people of unseen combinations',
  inked: 'people of the unseen style',
  things: 'animals and things of unseen drawings',
}

const SECTIONS = {
  size() {
    const rows = PARTS.map((part) => [
      `\`${part}\``,
      `${(parameters(part) / 1e6).toFixed(1)} M`,
      `${megabytes(part).toFixed(1)} MB`,
    ])
    const seen = figures.trained
      ? `\n\nThe U-Net has seen ${figures.trained.samples.toLocaleString('en')} samples.`
      : ''
    return table(['part', 'parameters', 'file'], rows) + seen
  },
  obeyed: ({ obeyed }) =>
    obeyed &&
    `${obeyed.prompts} prompts that no training picture has as a whole sentence, one picture each (${obeyed.steps} steps, guidance ${obeyed.guidance}), judged by the classifier of \`models/measure\`:\n\n` +
      table(
        ['what the prompt asks for', 'pictures that show it'],
        Object.entries(GROUPS)
          .filter(([group]) => obeyed.groups[group])
          .map(([group, title]) => [title, hits(obeyed.groups[group])]),
      ) +
      '\n\nBy field, and how often the classifier itself is right on drawn pictures of the usual framing:\n\n' +
      table(
        ['field', 'pictures that show it', 'classifier'],
        Object.entries(obeyed.fields).map(([field, found]) => [field, hits(found), percent(obeyed.classifier[field])]),
      ),
  autoencoder: ({ autoencoder: a }) =>
    a &&
    `Over ${a.pictures} unseen drawn pictures: PSNR ${a.psnr.toFixed(1)} dB; the classifier is right in ${percent(a.accuracyDrawn)} of its answers on the pictures and ${percent(a.accuracyDecoded)} on what the autoencoder makes of them (${a.pointsLost.toFixed(1)} points lost).`,
  distance: ({ distance: d }) =>
    d &&
    `Kernel distance on the classifier's features over ${d.pictures} pictures: generated to drawn ${d.generatedToDrawn.mean.toFixed(3)} (± ${d.generatedToDrawn.spread.toFixed(3)}), drawn to other drawn ${d.drawnToDrawn.mean.toFixed(3)} (± ${d.drawnToDrawn.spread.toFixed(3)}).`,
  attention: ({ attention: a }) =>
    a &&
    `The map of the subject's word at ${a.side} x ${a.side} has its peak on the subject in ${hits(a.peak)} drawn pictures of known layout; a place by chance would be in ${percent(a.byChance)}.`,
  sweeps: ({ sweeps }) =>
    sweeps
      ?.map(
        ({ title, groups, prompts, seeds }) =>
          `${title}, on ${groups.people.subjects} other people, ${prompts} prompts and ${seeds} seed${seeds === 1 ? '' : 's'} each:\n\n${swept(groups)}`,
      )
      .join('\n\n'),
  subjects: ({ subjects: s }) =>
    s &&
    `Learnt from one picture each, by the method${of(s.settings.method)} and by plain Textual Inversion (one vector for keys and values, one stage, no attention loss${learningRate(s.settings.inversion)}), ${s.prompts} prompts and ${s.seeds} seed${s.seeds === 1 ? '' : 's'}:\n\n` +
      Object.entries(s.groups)
        .map(([group, g]) => {
          const sides = ['method', 'inversion', 'isolated'].filter((side) => g[side])
          const figures = { identity: 'identity', prompt: 'prompt', 'prompt passed': 'passed', 'ID(P)': 'idp' }
          const rows = Object.entries(figures).map(([title, figure]) => [
            title,
            ...sides.map((side) => mean(g[side][figure], 3)),
            g.methodMinusInversion[figure] ? apart(g.methodMinusInversion[figure]) : '',
          ])
          const head = [
            `${g.subjects} ${WHO[group]}`,
            ...sides.map((side) => SIDES[side]),
            'method less plain inversion',
          ]
          return table(head, rows)
        })
        .join('\n\n') +
      `\n\nIdentity is a cosine of the embedder of \`models/measure\`, which was trained on people only; what the figures mean is in [docs/evaluate.md](../../docs/evaluate.md). On ${s.seconds.threads} thread${s.seconds.threads === 1 ? '' : 's'}, learning took ${s.seconds.method.learn.toFixed(0)} s and a picture ${s.seconds.method.picture.toFixed(1)} s (medians).`,
}

let text = readFileSync(values.readme, 'utf8')
const before = text
for (const [name, write] of Object.entries(SECTIONS)) {
  const marks = new RegExp(`(<!-- figures: ${name} -->\n)[^]*?(<!-- end -->)`)
  if (!marks.test(text)) throw new Error(`${values.readme} has no place for "${name}"`)
  text = text.replace(marks, (_, open, close) => `${open}${write(figures) || 'Not measured yet.'}\n${close}`)
}
if (!values.check) writeFileSync(values.readme, text)
else if (text !== before) throw new Error(`${values.readme} does not say what ${values.figures} says: run card.mjs`)
