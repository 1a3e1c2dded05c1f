// The same as quick-start.mjs, from CommonJS.
//   node quick-start.cjs [PHOTO] [STEPS]
const { join } = require('node:path')
const { Personalizer, SwapError } = require('@swap/native')

const people = join(require.resolve('@swap/native/package.json'), '..', 'models', 'mini', 'people')
const [photo = join(people, '6.png'), steps = '20'] = process.argv.slice(2)

async function main() {
  const personalizer = await Personalizer.open({ model: 'mini' })
  try {
    const alice = await personalizer.learn({ image: photo, name: 'alice', class: 'person', steps: Number(steps) })
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
}

main().catch((error) => {
  if (!(error instanceof SwapError)) throw error
  console.error(`${error.message} [${error.code}]${error.hint ? `\nhint: ${error.hint}` : ''}`)
  process.exitCode = 1
})
