// lib/ -> dist/: one CommonJS bundle, a thin ES module around it (so that a process that both imports and requires
// the package has one copy of every class), the command line, the demo, and types.
import { chmodSync, rmSync, writeFileSync } from 'node:fs'
import { at, fingerprint, once, run, say } from './common.mjs'

/** The names that lib/index.ts exports as values; the ES module re-exports them one by one, for static analysis. */
async function exportedNames(esbuild) {
  const { metafile } = await esbuild.build({
    entryPoints: [at('lib', 'index.ts')],
    bundle: true,
    write: false,
    metafile: true,
    format: 'esm',
    platform: 'node',
    packages: 'external',
    outfile: 'index.js',
  })
  return Object.values(metafile.outputs)[0].exports
}

export function buildTypeScript() {
  const sources = ['lib', 'package.json', 'tsconfig.json', 'tsconfig.build.json', 'scripts/build-ts.mjs']
  return once('typescript', fingerprint(sources), build)
}

async function build() {
  say('TypeScript')
  const esbuild = await import('esbuild')
  rmSync(at('dist'), { recursive: true, force: true })
  const bundle = (entry, outfile, banner = '') =>
    esbuild.build({
      entryPoints: [at('lib', entry)],
      outfile: at('dist', outfile),
      bundle: true,
      platform: 'node',
      target: 'node20',
      format: 'cjs',
      packages: 'external',
      sourcemap: false,
      legalComments: 'none',
      define: { 'import.meta.url': '__moduleUrl' },
      banner: { js: `${banner}const __moduleUrl = require('node:url').pathToFileURL(__filename).href;` },
      logLevel: 'warning',
    })
  await bundle('index.ts', 'index.cjs')
  await bundle('cli/main.ts', 'cli.cjs', '#!/usr/bin/env node\n')
  await bundle('demo.ts', 'demo.cjs')
  chmodSync(at('dist', 'cli.cjs'), 0o755)
  // Not `import native from './index.cjs'`: Node would first look through the whole bundle for names to export, which
  // takes longer than running it.
  const names = await exportedNames(esbuild)
  writeFileSync(
    at('dist', 'index.js'),
    `import { createRequire } from 'node:module'
const native = createRequire(import.meta.url)('./index.cjs')
export const { ${names.join(', ')} } = native
`,
  )
  run(process.execPath, [at('node_modules', 'typescript', 'bin', 'tsc'), '-p', at('tsconfig.build.json')])
  // The types are laid out as the code is: those of CommonJS, and an ES module that passes them on. TypeScript would
  // not let a CommonJS file `require` what it takes for an ES module, and two copies would be two sets of classes.
  writeFileSync(at('dist', 'types', 'package.json'), '{ "type": "commonjs" }\n')
  writeFileSync(at('dist', 'index.d.ts'), "export * from './types/index.js'\n")
}

if (import.meta.filename === process.argv[1]) await buildTypeScript()
