/** Where this package lies, from the sources as from the bundle. */
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { SwapError } from './errors.ts'

let root: string | undefined

/** The folder whose package.json is named `@swap/native`: the checkout's, or the installed package's. */
export function packageRoot(): string {
  root ??= findRoot(dirname(fileURLToPath(import.meta.url)))
  return root
}

function findRoot(start: string): string {
  for (let folder = start; ; folder = dirname(folder)) {
    if (packageName(join(folder, 'package.json')) === '@swap/native') return folder
    if (folder === dirname(folder)) break
  }
  throw new SwapError('SWAP_FILE_NOT_FOUND', `the package's own folder was not found above "${start}"`, {
    hint: "keep node_modules/@swap/native whole: a bundler must leave '@swap/native' external",
  })
}

function packageName(file: string): unknown {
  try {
    return (JSON.parse(readFileSync(file, 'utf8')) as { name?: unknown } | null)?.name
  } catch {
    return undefined
  }
}
