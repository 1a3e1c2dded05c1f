#!/usr/bin/env node
// prebuilds/<platform>/: the addon by prebuildify, with the engine library beside it.
//
// prebuildify knows node-gyp only, moves what it finds in build/Release, and takes every library there along. So it
// works in a stage of its own, and this script plays node-gyp for it: asked to `rebuild`, it copies there what
// `npm run build` has made.
import { copyFileSync, existsSync, mkdirSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { at, say } from './common.mjs'

const stage = at('.cache', 'prebuild')
const output = at('.cache', 'prebuild', 'build', 'Release')

const extension = { linux: 'so', darwin: 'dylib', win32: 'dll' }[process.platform]
const engine = (flavour) => `${process.platform === 'win32' ? '' : 'lib'}swap_engine_${flavour}.${extension}`

if (process.argv[2] === 'rebuild') {
  rmSync(stage, { recursive: true, force: true })
  mkdirSync(output, { recursive: true })
  for (const file of ['swap_native.node', engine('cpu'), engine('cuda')]) {
    const built = at('build', 'Release', file)
    if (existsSync(built)) copyFileSync(built, `${output}/${file}`)
    else if (file !== engine('cuda')) throw new Error(`${built} is not there: run npm run build first`)
  }
} else {
  const prebuildify = createRequire(import.meta.url)('prebuildify')
  rmSync(at('prebuilds'), { recursive: true, force: true })
  mkdirSync(stage, { recursive: true })
  const options = {
    name: '@swap/native',
    targets: [`node@${process.versions.node}`],
    napi: true,
    strip: true,
    tagLibc: true,
    cwd: stage,
    out: at(),
    quiet: true,
    // spawned without a shell: this very file is executable
    nodeGyp: at('scripts', 'prebuild.mjs'),
  }
  prebuildify(options, (error) => {
    if (error) {
      console.error(error)
      process.exit(1)
    }
    say('prebuilds')
  })
}
