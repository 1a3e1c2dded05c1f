// node people.mjs DIR [COUNT]: people that no training picture shows, one photo each (DIR/0.png ...), and people.json about them.

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { newIdentity } from './identity.mjs'
import { randomFrom } from './random.mjs'
import { renderPng } from './render.mjs'
import { sample } from './sample.mjs'

const [folder, count = '8'] = process.argv.slice(2)
mkdirSync(folder, { recursive: true })
const people = []
for (let i = 0; i < Number(count); i++) {
  const who = { ...newIdentity(randomFrom(600_000_000 + i), true), glasses: false }
  const look = { eyes: 'open', mouth: who.mouth, hat: null, holds: null }
  const choices = {
    split: 'test',
    kind: 'person',
    scene: 'plain',
    framing: 'usual',
    style: 'picture',
    night: false,
    who,
    look,
  }
  writeFileSync(join(folder, `${i}.png`), renderPng(sample(600_000_000 + i, choices)))
  const { hairHex, skinHex, clothHex, nose, body, mouth, glasses, ...known } = who
  people.push(known)
}
writeFileSync(join(folder, 'people.json'), `${JSON.stringify(people, null, 1)}\n`)
