// node generate.mjs --out DIR --from SEED --count N [--shard 8000] [--workers 2] [--split train|test|inked|all] [--each K]
// With --each, K pictures in a row show one person, in ever new shirts, moods and places: for the identity embedder.
// Writes shards of pictures (.bin), masks (.masks, 3 x 16 x 16 bytes a picture) and one JSON line a picture (.jsonl).

import { fork } from 'node:child_process'
import { existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { randomFrom } from './random.mjs'
import { renderMasks, renderPicture } from './render.mjs'
import { attributesOf, newStranger, sample } from './sample.mjs'

const { values } = parseArgs({
  options: {
    out: { type: 'string' },
    from: { type: 'string', default: '0' },
    count: { type: 'string', default: '8000' },
    shard: { type: 'string', default: '8000' },
    workers: { type: 'string', default: '2' },
    split: { type: 'string', default: 'train' },
    each: { type: 'string', default: '0' },
    only: { type: 'string' },
  },
})

/** The description of a finished picture, as the trainers and the measuring nets read it. */
function describe(drawn, boxes) {
  const { people, things, ...picture } = drawn.made
  return {
    seed: drawn.seed,
    caption: drawn.caption,
    words: drawn.words,
    ...picture,
    people: people.map(({ who, look, name, slot }) => {
      const { hairHex, skinHex, clothHex, mouth, glasses, ...lasting } = who
      const { eyes, mouth: mouthNow, hat, holds, pose } = look
      return {
        slot,
        name,
        ...lasting,
        id: [hairHex, skinHex, who.hair, who.beard, who.nose, who.old].join('-'),
        eyes,
        mouth: mouthNow,
        hat,
        holds,
        pose,
        attributes: attributesOf({ who, look }),
      }
    }),
    things: things.map(({ kind, slot, tint }) => ({ kind, slot, tint })),
    boxes,
  }
}

/** What is fixed about the picture of a seed: nothing, or who is on it. */
function choices(seed) {
  const each = Number(values.each)
  if (!each) return { split: values.split }
  const who = newStranger(randomFrom(1e9 + Math.floor(seed / each)), values.split)
  const random = randomFrom(seed + 5)
  return {
    split: values.split,
    who,
    kind: random() < 0.85 ? 'person' : 'person and animal',
    look: random() < 0.4 ? { newCloth: true } : {},
  }
}

function writeShard(base, first, count) {
  const pictures = Buffer.alloc(count * 128 * 128 * 3)
  const masks = Buffer.alloc(count * 3 * 16 * 16)
  const lines = []
  for (let i = 0; i < count; i++) {
    const drawn = sample(first + i, choices(first + i))
    const parts = renderMasks(drawn)
    renderPicture(drawn).copy(pictures, i * 128 * 128 * 3)
    parts.masks.copy(masks, i * 3 * 16 * 16)
    lines.push(JSON.stringify(describe(drawn, parts.boxes)))
  }
  writeFileSync(`${base}.masks`, masks)
  writeFileSync(`${base}.jsonl`, `${lines.join('\n')}\n`)
  writeFileSync(`${base}.tmp`, pictures)
  renameSync(`${base}.tmp`, `${base}.bin`) // last: a shard with pictures is a whole shard
}

const shard = Number(values.shard)
const first = Number(values.from)
const total = Number(values.count)
mkdirSync(values.out, { recursive: true })
const jobs = []
for (let start = 0; start < total; start += shard) {
  const base = join(values.out, `shard-${String(first + start).padStart(9, '0')}`)
  if (!existsSync(`${base}.bin`)) jobs.push({ base, first: first + start, count: Math.min(shard, total - start) })
}
if (values.only) {
  const job = jobs.find((j) => j.base === values.only)
  if (job) writeShard(job.base, job.first, job.count)
} else {
  // One process a shard: the renderer keeps no memory between shards, and a shard that is there is not drawn again.
  const run = async () => {
    for (let job = jobs.shift(); job; job = jobs.shift()) {
      const args = [...process.argv.slice(2), '--only', job.base]
      await new Promise((done, fail) => {
        fork(fileURLToPath(import.meta.url), args).on('exit', (code) =>
          code === 0 ? done() : fail(new Error(`${job.base}: exit ${code}`)),
        )
      })
      console.log(job.base)
    }
  }
  await Promise.all(Array.from({ length: Number(values.workers) }, run))
}
