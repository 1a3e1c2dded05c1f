// node sheet.mjs --net DIR --edges DIR --out FILE (--subject FILE | --photo FILE --class WORD) [--scale 1] [--seed 1]
// A contact sheet of what the package draws along edges: without the net, with it, and a learnt subject with it. DIR has
// PNGs of edges (edges.py makes them), each named as its prompt: `a person at the beach.png`. Build the package first.

import { readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'
import { Personalizer, Subject } from '../../dist/index.js'
import { grid } from '../mini/measure/grid.mjs'

const { values } = parseArgs({
  options: {
    out: { type: 'string' },
    net: { type: 'string' },
    edges: { type: 'string' },
    photo: { type: 'string' },
    subject: { type: 'string' },
    class: { type: 'string', default: 'person' },
    model: { type: 'string', default: 'mini' },
    scale: { type: 'string', default: '1' },
    seed: { type: 'string', default: '1' },
    threads: { type: 'string', default: '1' },
  },
})
const word = values.class
const seed = Number(values.seed)
const personalizer = await Personalizer.open({ model: values.model, threads: Number(values.threads) })
const subject = values.subject
  ? await Subject.load(values.subject)
  : await personalizer.learn({ image: values.photo, class: word, name: 'subject' })
const rows = []
for (const file of readdirSync(values.edges)
  .filter((name) => name.endsWith('.png'))
  .sort()) {
  const image = join(values.edges, file)
  const prompt = basename(file, '.png')
  const control = [{ model: values.net, image, scale: Number(values.scale) }]
  const draw = async (options) => {
    const [picture] = await personalizer.generate({ seed, ...options })
    return await picture.toBuffer()
  }
  rows.push([
    { picture: image, label: 'edges' },
    { picture: await draw({ prompt }), label: prompt },
    { picture: await draw({ prompt, control }), label: 'with the edges' },
    {
      picture: await draw({ prompt: prompt.replace(word, `<${subject.name}>`), subjects: [subject], control }),
      label: `<${subject.name}>, with the edges`,
    },
  ])
}
await personalizer.close()
await grid(values.out, rows)
console.log(values.out)
