// `npm run full-size`: the exact architectures of Stable Diffusion 1.5, 2.1 and XL with random weights open, learn from a
// 512 px photograph and draw, here, and beside it in diffusers. Writes docs/full-size.md. Needs the tests' Python
// environment. `npm run full-size -- sdxl` measures one of them; the others keep the numbers of their last run here.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, totalmem } from 'node:os'
import { at, run, say } from '../scripts/common.mjs'
import { python } from '../scripts/python.mjs'

const FAMILIES = {
  sd15: 'Stable Diffusion 1.5',
  sd21: 'Stable Diffusion 2.1 (768 px model, v-prediction)',
  sdxl: 'Stable Diffusion XL',
}
const LEARN_STEPS = 3
const DRAW_STEPS = 3
const GB = 1 << 30

/** A photograph of 512 x 512 that Debian's python3-skimage ships (NASA, public domain). */
function photograph() {
  const folder = at('.cache', 'photo')
  const file = `${folder}/usr/lib/python3/dist-packages/skimage/data/astronaut.png`
  if (!existsSync(file)) {
    mkdirSync(folder, { recursive: true })
    run('sh', ['-c', `cd '${folder}' && apt-get download -qq python3-skimage && dpkg -x python3-skimage_*.deb .`])
  }
  return file
}

/** One family in a process of its own, so that its peak memory is its own. */
async function measure(folder) {
  const { Personalizer } = await import('../dist/index.js')
  const seconds = (since) => (performance.now() - since) / 1000
  const peak = () => (process.resourceUsage().maxRSS * 1024) / GB
  const result = {}
  let since = performance.now()
  const personalizer = await Personalizer.open({ model: folder })
  const { info } = personalizer
  Object.assign(result, { info, open: seconds(since), openPeak: peak() })
  try {
    since = performance.now()
    const times = []
    let last
    const learning = personalizer.learn({ image: photograph(), class: 'person', steps: LEARN_STEPS })
    for await (const event of learning) {
      const now = performance.now()
      if (last !== undefined) times.push((now - last) / 1000)
      last = now
      result.losses = [...(result.losses ?? []), { loss: event.loss, attention: event.attention }]
    }
    const subject = await learning
    Object.assign(result, { learn: seconds(since), step: times.at(-1), learnPeak: peak() })
    since = performance.now()
    const prompt = `a photo of <${subject.name}> at the beach`
    const [image] = await personalizer.generate({ prompt, subjects: [subject], steps: DRAW_STEPS, seed: 1 })
    Object.assign(result, { draw: seconds(since), size: `${image.width} x ${image.height}`, drawPeak: peak() })
  } finally {
    await personalizer.close()
  }
  process.stdout.write(`\n${JSON.stringify(result)}\n`)
}

if (process.argv[2] === '--measure') {
  await measure(process.argv[3])
} else {
  const chosen = process.argv.slice(2)
  const kept = at('.cache', 'full-size', 'results.json')
  const results = existsSync(kept) ? JSON.parse(readFileSync(kept, 'utf8')) : {}
  for (const [family, name] of Object.entries(FAMILIES)) {
    if (chosen.length > 0 && !chosen.includes(family)) continue
    const folder = at('.cache', 'full-size', family)
    if (!existsSync(`${folder}/model_index.json`)) {
      say(`making ${name} with random weights`)
      run(python, [at('tools/reference/full_size.py'), '--family', family, '--out', folder])
    }
    say(name)
    const child = spawnSync(process.execPath, [at('bench/full-size.mjs'), '--measure', folder], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
      cwd: at(),
    })
    if (child.status !== 0) {
      console.error(`${name}: ended with ${child.status ?? child.signal}`)
      process.exit(1)
    }
    results[family] = JSON.parse(child.stdout.trim().split('\n').at(-1))
    say(`${name} in diffusers`)
    const script = at('tools/reference/full_size_run.py')
    const theirs = spawnSync(python, [script, '--folder', folder, '--steps', String(DRAW_STEPS)], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    // Where it does not fit into the memory, that is a result too: what was done before is there.
    results[family].diffusers = JSON.parse(theirs.stdout.trim().split('\n').at(-1) || '{}')
    console.log(results[family])
    writeFileSync(kept, JSON.stringify(results))
  }
  const rows = Object.fromEntries(
    Object.entries(FAMILIES).flatMap(([family, name]) => (results[family] ? [[name, results[family]]] : [])),
  )
  const columns = Object.values(rows)
  const line = (label, cell) => `| ${label} | ${columns.map(cell).join(' | ')} |`
  const number = (value, digits = 1) => value.toFixed(digits)
  const table = [
    `| | ${Object.keys(rows).join(' | ')} |`,
    `|---|${columns.map(() => '---|').join('')}`,
    line('parameters', (r) => `${number(r.info.parameters / 1e6, 0)} M`),
    line('weights in memory', (r) => `${number(r.info.weightBytes / GB, 2)} GB in ${r.info.dtype}`),
    line('open', (r) => `${number(r.open)} s`),
    line(
      'peak memory after opening',
      (r) => `${number(r.openPeak, 2)} GB, ${number(r.openPeak - r.info.weightBytes / GB, 2)} beyond the weights`,
    ),
    line(
      `learn ${LEARN_STEPS} steps from a 512 px photograph, with all that is done once`,
      (r) => `${number(r.learn)} s`,
    ),
    line('one training step', (r) => `${number(r.step)} s`),
    line('attention loss at step 0, at the last step', (r) =>
      r.losses
        .filter((_, i) => i % (LEARN_STEPS - 1) === 0)
        .map((l) => l.attention.toPrecision(2))
        .join(', '),
    ),
    line('peak memory after learning', (r) => `${number(r.learnPeak, 2)} GB`),
    line(`a picture of ${DRAW_STEPS} steps with guidance`, (r) => `${r.size}, ${number(r.draw)} s`),
    line('peak memory after drawing', (r) => `${number(r.drawPeak, 2)} GB`),
    ...[
      ['open', 'open'],
      [`a picture of ${DRAW_STEPS} steps with guidance`, 'draw'],
      ['one training step (Textual Inversion: one text pass, no attention loss)', 'step'],
    ].map(([label, key]) =>
      line(`diffusers in bfloat16: ${label}; peak memory so far`, ({ diffusers }) =>
        diffusers?.[key]
          ? `${number(diffusers[key])} s; ${number(diffusers[`${key}Peak`], 2)} GB`
          : 'ended by the system',
      ),
    ),
  ]
  writeFileSync(
    at('docs', 'full-size.md'),
    `# Stable Diffusion 1.5, 2.1 and XL in full size

Exact architectures with random weights in fp16 files: it shows that such models open, learn and draw here and what that
takes, not what they draw. Made by \`npm run full-size\` on ${cpus().length} cores of ${cpus()[0].model.trim()} with
${number(totalmem() / GB, 0)} GB of memory. Times are of one run on a shared machine; the memory is the process's peak resident set.

${table.join('\n')}

Opening never holds the weights twice: tensor by tensor they are read into the dtype that is computed in. What the peak
after opening has beyond them is LibTorch, Node and what is being read.
`,
  )
  say('docs/full-size.md')
}
