// Packs the package, installs the tarball into an empty project with no compiler in PATH, and runs the README's
// example by `import` and by `require`. LibTorch comes from the cache of `swap setup`.
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { at, run, say } from './common.mjs'

const project = mkdtempSync(join(tmpdir(), 'swap-package-'))
process.on('exit', () => rmSync(project, { recursive: true, force: true }))

say('npm pack')
const [{ filename, size, unpackedSize }] = JSON.parse(
  run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', project], { quiet: true }),
)
console.log(`  ${filename}: ${(size / 1e6).toFixed(1)} MB packed, ${(unpackedSize / 1e6).toFixed(1)} MB unpacked`)

// A PATH with Node, npm and a shell, and nothing else: no compiler, no CMake, no Python.
const bin = join(project, 'bin')
mkdirSync(bin)
symlinkSync(process.execPath, join(bin, 'node'))
for (const tool of ['npm', 'npx', 'sh', 'env', 'uname']) {
  const found = spawnSync('sh', ['-c', `command -v ${tool}`], { encoding: 'utf8' }).stdout.trim()
  if (found) symlinkSync(found, join(bin, tool))
}
const env = { ...process.env, PATH: bin, npm_config_cache: join(project, 'npm-cache') }
// npm hands the checkout's own settings down to its scripts' children.
for (const name of Object.keys(env)) if (/^npm_(config_local_prefix|package_|lifecycle_)/.test(name)) delete env[name]

const inProject = (command, args) => {
  const result = spawnSync(join(bin, command), args, { cwd: project, env, encoding: 'utf8' })
  if (result.status !== 0) {
    console.error(`${command} ${args.join(' ')} failed\n${result.stdout}${result.stderr}`)
    process.exit(1)
  }
  return result.stdout
}

if (spawnSync('sh', ['-c', 'command -v c++ g++ cc gcc cmake python3'], { env }).status === 0) {
  console.error('a compiler can still be found')
  process.exit(1)
}
say('install without a compiler')
writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'a-project', private: true }))
inProject('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', join(project, filename)])

for (const example of ['quick-start.mjs', 'quick-start.cjs']) {
  say(example)
  copyFileSync(at('examples', example), join(project, example))
  process.stdout.write(inProject('node', [example]).replace(/^/gm, '  ').trimEnd().concat('\n'))
}
say('types')
// What a strict TypeScript project writes: as an ES module, and as CommonJS with the same classes.
writeFileSync(
  join(project, 'module.mts'),
  `import { type GeneratedImage, type GenerateOptions, Personalizer, type Subject, SwapError } from '@swap/native'
import { old } from './common.cjs'
export async function draw(): Promise<GeneratedImage[]> {
  const personalizer: Personalizer = (await old()) ?? (await Personalizer.open({ dtype: 'float32' }))
  const job = personalizer.learn({ image: 'me.png', class: 'person', crop: { left: 0, top: 0, size: 64 } })
  for await (const { step, loss } of job) console.log(step.toFixed(), loss.toFixed())
  const subject: Subject = await job
  // @ts-expect-error a misspelt option
  const wrong: GenerateOptions = { prompt: 'x', stesp: 3 }
  return await personalizer.generate({ ...wrong, subjects: [subject] }).catch((error: unknown) => {
    throw error instanceof SwapError ? error.code : error
  })
}
`,
)
writeFileSync(
  join(project, 'common.cts'),
  `import swap = require('@swap/native')
export async function old(): Promise<swap.Personalizer | undefined> {
  return await swap.Personalizer.open().catch((error: unknown) => {
    if (error instanceof swap.SwapError) return undefined
    throw error
  })
}
`,
)
for (const [module, resolution] of [
  ['node16', 'node16'],
  ['nodenext', 'nodenext'],
  ['preserve', 'bundler'],
]) {
  const settings = ['--strict', '--noEmit', '--target', 'es2022', '--exactOptionalPropertyTypes']
  const ambient = ['--types', 'node', '--typeRoots', at('node_modules', '@types')]
  const tsc = [at('node_modules', 'typescript', 'bin', 'tsc'), ...settings, ...ambient]
  inProject('node', [...tsc, '--module', module, '--moduleResolution', resolution, 'module.mts', 'common.cts'])
  console.log(`  moduleResolution ${resolution}: ok`)
}
say('the command line')
const cli = join('node_modules', '@swap', 'native', 'dist', 'cli.cjs')
inProject('node', [cli, 'generate', 'a photo of a person at the beach', '--steps', '3', '--out', 'pictures'])
if (!existsSync(join(dirname(join(project, cli)), '..', 'prebuilds'))) throw new Error('the package has no prebuilds')
console.log('  swap generate: ok')
