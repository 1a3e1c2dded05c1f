// `node bench/export.mjs [SUBJECT.safetensors ...]`: how far pictures move when a subject is exported to one vector a token.
// Draws subjects of the embedded model (two people are learnt where none are given) as they are and as their export, with
// their class word, and with other seeds; prints the mean differences of pixel values (of 255), which stand in
// lib/embedding/write.ts and docs/embeddings.md.
import { Personalizer, Subject } from '../dist/index.js'
import { at, say } from '../scripts/common.mjs'

const files = process.argv.slice(2)
const count = 4
const PROMPTS = ['a photo of {}', '{} at the beach']

const personalizer = await Personalizer.open()
const sums = { exported: 0, word: 0, seeds: 0 }
let compared = 0

async function draw(prompt, subjects, seed) {
  // As other programs draw: an export has no class word that its neighbours could keep to.
  const images = await personalizer.generate({ prompt, subjects, seed, count, isolate: false })
  return Buffer.concat(images.map(({ data }) => data))
}

function difference(a, b) {
  return a.reduce((sum, value, index) => sum + Math.abs(value - b[index]), 0) / a.length
}

try {
  const subjects =
    files.length > 0 ? files : ['0', '2'].map((person) => at('models', 'mini', 'people', `${person}.png`))
  for (const file of subjects) {
    const subject = file.endsWith('.png')
      ? await personalizer.learn({ image: file, class: 'person' })
      : await Subject.load(file)
    const exported = await Subject.load(subject.toBuffer({ format: 'diffusers' }))
    for (const prompt of PROMPTS) {
      const named = prompt.replace('{}', `<${subject.name}>`)
      const own = await draw(named, [subject], 1)
      sums.exported += difference(own, await draw(named, [exported], 1))
      sums.word += difference(own, await draw(prompt.replace('{}', 'a person'), [], 1))
      sums.seeds += difference(own, await draw(named, [subject], 1001))
      compared++
    }
    say(file)
  }
  const means = Object.entries(sums).map(([name, sum]) => `${name}: ${(sum / compared).toFixed(1)}`)
  say(`{ ${means.join(', ')} } of 255, ${subjects.length} subjects, ${PROMPTS.length} prompts, ${count} pictures each`)
} finally {
  await personalizer.close()
}
