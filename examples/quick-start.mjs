// Learns a subject from one photo and draws one picture of it.
//   node quick-start.mjs [PHOTO] [STEPS]
// A handful of steps shows the road; for a subject worth keeping leave `steps` to the model.
import { fileURLToPath } from 'node:url'
import { Personalizer, SwapError } from '@swap/native'

const people = new URL('models/mini/people/', import.meta.resolve('@swap/native/package.json'))
const [photo = fileURLToPath(new URL('6.png', people)), steps = '20'] = process.argv.slice(2)

try {
  const personalizer = await Personalizer.open({ model: 'mini' })
  try {
    const job = personalizer.learn({ image: photo, name: 'alice', class: 'person', steps: Number(steps) })
    for await (const { step, steps, loss } of job) {
      if (step % 10 === 0) console.log(`step ${step} of ${steps}, loss ${loss.toFixed(4)}`)
    }
    const alice = await job
    await alice.save('alice.safetensors')

    const [picture] = await personalizer.generate({
      prompt: 'a photo of <alice> wearing sunglasses at the beach',
      subjects: [alice],
      seed: 1,
    })
    await picture.save('alice.png')
    console.log('saved alice.safetensors and alice.png')
  } finally {
    await personalizer.close()
  }
} catch (error) {
  if (!(error instanceof SwapError)) throw error
  console.error(`${error.message} [${error.code}]${error.hint ? `\nhint: ${error.hint}` : ''}`)
  process.exitCode = 1
}
