// Sets up a fresh clone, and does nothing a second time: npm packages, TypeScript, LibTorch, native build.
//   --test   also what the tests need: doctest, a Python environment with the reference implementation
import { buildNative } from './build-native.mjs'
import { at, fingerprint, once, run, say } from './common.mjs'
import { setUpReference } from './python.mjs'

const forTests = process.argv.includes('--test')

await once('npm', fingerprint(['package-lock.json']), () => {
  say('npm packages')
  // Not `npm ci`: it wants the optional binaries of all platforms in the lock file, and registries may lack some.
  run('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error'], {
    // Where it sees CUDA, ONNX Runtime's own install step would fetch hundreds of megabytes for it.
    env: { ONNXRUNTIME_NODE_INSTALL: 'skip' },
  })
})

const { buildTypeScript } = await import('./build-ts.mjs')
await buildTypeScript()

// Twice: once to be watched while it downloads, once for its answer.
const setup = [at('dist', 'cli.cjs'), 'setup', '--if-missing']
const answer = () =>
  JSON.parse(
    run(process.execPath, [...setup, '--json'], { quiet: true })
      .trim()
      .split('\n')
      .at(-1),
  )
await once('libtorch', fingerprint(['lib/libtorch/version.ts'], process.env.SWAP_LIBTORCH ?? ''), () => {
  say('LibTorch')
  run(process.execPath, setup)
})
const libtorch = answer()
await buildNative({ libtorch: libtorch.root, tests: forTests })
if (forTests) await setUpReference()
