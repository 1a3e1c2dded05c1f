/** docs/errors.md and the sources name the same codes. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { packageRoot } from '../../lib/paths.ts'

const CODE = /SWAP_(?:[A-Z]+_[A-Z_]+|CANCELLED|DISPOSED)/
/** Environment variables are named alike, but never a string of their own in an error's place. */
const RAISED = new RegExp(`(['"])(${CODE.source})\\1`, 'g')
const NAMED = new RegExp(`\`(${CODE.source})\``, 'g')

function sources(): string[] {
  return ['lib', 'binding', 'cpp'].flatMap((folder) =>
    readdirSync(join(packageRoot(), folder), { recursive: true, withFileTypes: true })
      .filter((file) => file.isFile() && /\.(ts|cpp|h|cu)$/.test(file.name))
      .map((file) => readFileSync(join(file.parentPath, file.name), 'utf8')),
  )
}

const unique = (codes: (string | undefined)[]): string[] => [...new Set(codes as string[])].sort()
const withoutComments = (text: string): string => text.replace(/\/\*[\s\S]*?\*\/|(^|\s)\/\/.*/g, '')
const documented = readFileSync(join(packageRoot(), 'docs', 'errors.md'), 'utf8')
  .split('\n')
  .map((line) => /^\| `(SWAP_\w+)` \| \S.+ \| \S.+ \|$/.exec(line)?.[1])
  .filter((code) => code !== undefined)

test('every code that is raised is documented, and every documented code is raised', () => {
  const raised = unique(
    sources().flatMap((text) => [...withoutComments(text).matchAll(RAISED)].map(([, , code]) => code)),
  )
  expect(raised.length).toBeGreaterThan(80)
  expect(unique(documented)).toEqual(raised)
})

test('no code is documented twice', () => {
  expect(documented).toEqual([...new Set(documented)])
})

test('codes that comments speak of exist', () => {
  const environment = unique(
    sources().flatMap((text) => [...text.matchAll(/env\.(SWAP_\w+)/g)].map(([, name]) => name)),
  )
  const named = unique(sources().flatMap((text) => [...text.matchAll(NAMED)].map(([, code]) => code)))
  expect(named.filter((code) => !documented.includes(code) && !environment.includes(code))).toEqual([])
})
