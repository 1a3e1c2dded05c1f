// node sheet.mjs --lora FILE --out FILE [--subject FILE | --photo FILE] [--model DIR] [--scale 1] [--steps 30]
// A subject that was learnt without a LoRA, beside itself with it; drawn by the package: build it first (npm run build).

import { parseArgs } from 'node:util'
import { Personalizer, Subject } from '../../dist/index.js'
import { grid } from '../mini/measure/grid.mjs'

const { values } = parseArgs({
  options: {
    lora: { type: 'string' },
    out: { type: 'string' },
    model: { type: 'string', default: 'mini' },
    photo: { type: 'string', default: new URL('../../models/mini/people/1.png', import.meta.url).pathname },
    subject: { type: 'string' },
    scale: { type: 'string', default: '1' },
    'learn-steps': { type: 'string' },
    steps: { type: 'string', default: '30' },
    threads: { type: 'string', default: '1' },
  },
})
const PROMPTS = [
  'a photo of <alice>',
  'a photo of <alice> at the beach',
  'a photo of <alice> wearing sunglasses',
  'a photo of a cat',
]
const SCALES = [0, Number(values.scale) / 2, Number(values.scale)]

const personalizer = await Personalizer.open({ model: values.model, threads: Number(values.threads) })
const steps = values['learn-steps'] === undefined ? undefined : Number(values['learn-steps'])
const alice = values.subject
  ? await Subject.load(values.subject)
  : await personalizer.learn({ image: values.photo, class: 'person', name: 'alice', steps })
const rows = []
for (const scale of SCALES) {
  await personalizer.setLoras(scale === 0 ? [] : [{ file: values.lora, scale }])
  const row = []
  for (const prompt of PROMPTS) {
    const subjects = prompt.includes('<alice>') ? [alice] : []
    const [picture] = await personalizer.generate({
      prompt: prompt.replace('alice', alice.name),
      subjects,
      seed: row.length + 1,
      steps: Number(values.steps),
    })
    row.push({ picture: await picture.toBuffer(), label: `${scale === 0 ? 'without' : `scale ${scale}`}: ${prompt}` })
  }
  rows.push(row)
}
await personalizer.close()
await grid(values.out, rows)
console.log(values.out)
