// node sheet.mjs --out FILE [--model DIR] [--prompts FILE] [--columns 8] [--seed 1] [--format webp]
// A contact sheet of prompts, one picture each, drawn by the package: build it first (npm run build).

import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { Personalizer } from '../../../dist/index.js'
import { grid } from './grid.mjs'

const { values } = parseArgs({
  options: {
    out: { type: 'string' },
    model: { type: 'string', default: 'mini' },
    prompts: { type: 'string', default: new URL('sheet-prompts.txt', import.meta.url).pathname },
    columns: { type: 'string', default: '8' },
    count: { type: 'string', default: '1000' },
    seed: { type: 'string', default: '1' },
    threads: { type: 'string', default: '1' },
  },
})
const prompts = readFileSync(values.prompts, 'utf8').trim().split('\n').slice(0, Number(values.count))
const personalizer = await Personalizer.open({ model: values.model, threads: Number(values.threads) })
const places = []
for (const prompt of prompts) {
  const [picture] = await personalizer.generate({ prompt, seed: Number(values.seed) + places.length })
  places.push({ picture: await picture.toBuffer(), label: prompt })
}
await personalizer.close()
const columns = Number(values.columns)
const rows = Array.from({ length: Math.ceil(places.length / columns) }, (_, y) =>
  places.slice(y * columns, (y + 1) * columns),
)
await grid(values.out, rows)
console.log(values.out)
