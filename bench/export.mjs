// `node bench/export.mjs [people] [pictures]`: how far pictures move when a subject is exported to one vector a token.
// Learns subjects on the embedded model, draws each as it is and as its export, with its class word, and with other
// seeds; prints the mean differences of pixel values (of 255), which stand in lib/embedding/write.ts and docs/embeddings.md.
import { Personalizer, Subject } from '../dist/index.js'
import { at, say } from '../scripts/common.mjs'

const people = Number(process.argv[2] ?? 2)
const count = Number(process.argv[3] ?? 4)
const PROMPTS = ['a photo of {}', '{} at the beach']

const personalizer = await Personalizer.open()
const sums = { exported: 0, word: 0, seeds: 0 }
let compared = 0

async function draw(prompt, subjects, seed) {
  const images = await personalizer.generate({ prompt, subjects, seed, count })
  return Buffer.concat(images.map(({ data }) => data))
}

function difference(a, b) {
  return a.reduce((sum, value, index) => sum + Math.abs(value - b[index]), 0) / a.length
}

try {
  for (let person = 0; person < people; person++) {
    const image = at('models', 'mini', 'people', `${person}.png`)
    const subject = await personalizer.learn({ image, class: 'person', name: 'alice' })
    const exported = await Subject.load(subject.toBuffer({ format: 'diffusers' }))
    for (const prompt of PROMPTS) {
      const named = prompt.replace('{}', '<alice>')
      const own = await draw(named, [subject], 1)
      sums.exported += difference(own, await draw(named, [exported], 1))
      sums.word += difference(own, await draw(prompt.replace('{}', 'a person'), [], 1))
      sums.seeds += difference(own, await draw(named, [subject], 1001))
      compared++
    }
    say(`${person + 1} of ${people} subjects`)
  }
  const means = Object.entries(sums).map(([name, sum]) => `${name}: ${(sum / compared).toFixed(1)}`)
  say(`{ ${means.join(', ')} } of 255, ${people} subjects, ${PROMPTS.length} prompts, ${count} pictures each`)
} finally {
  await personalizer.close()
}
