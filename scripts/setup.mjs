// Sets up a fresh clone, and does nothing a second time: npm packages, TypeScript, LibTorch, native build.
//   --test   also what the tests need: doctest, a Python environment with the reference implementation
import { existsSync } from 'node:fs'
import { buildNative } from './build-native.mjs'
import { at, fingerprint, once, run, say } from './common.mjs'
import { setUpReference } from './python.mjs'

const forTests = process.argv.includes('--test')

once('npm', fingerprint(['package-lock.json'], String(existsSync(at('node_modules')))), () => {
  say('npm packages')
  run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error'])
})
// The key holds whether node_modules was there: the second run records the settled state.
once('npm', fingerprint(['package-lock.json'], 'true'), () => {})

const { buildTypeScript } = await import('./build-ts.mjs')
await buildTypeScript()

const libtorch = JSON.parse(
  run(process.execPath, [at('dist', 'cli.cjs'), 'setup', '--if-missing', '--json'], { quiet: true })
    .trim()
    .split('\n')
    .at(-1),
)
buildNative({ libtorch: libtorch.root, tests: forTests })
if (forTests) setUpReference()
