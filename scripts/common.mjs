// What the build scripts share. Node's own modules only: these run before anything is installed.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = dirname(dirname(fileURLToPath(import.meta.url)))
export const at = (...parts) => join(root, ...parts)

/** Runs a command in the repository and stops this script where it fails. */
export function run(command, args, { env = {}, quiet = false } = {}) {
  const result = spawnSync(command, args, {
    cwd: root,
    stdio: quiet ? ['ignore', 'pipe', 'pipe'] : 'inherit',
    env: { ...process.env, ...env },
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    shell: process.platform === 'win32',
  })
  if (result.error || result.status !== 0) {
    if (quiet) process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}`)
    console.error(`\n${command} ${args.join(' ')} failed${result.error ? `: ${result.error.message}` : ''}`)
    process.exit(result.status || 1)
  }
  return result.stdout ?? ''
}

/** True when the command can be run here. */
export function has(command, args = ['--version']) {
  return spawnSync(command, args, { stdio: 'ignore' }).status === 0
}

function* files(path) {
  if (!existsSync(path)) return
  if (statSync(path).isFile()) yield path
  else
    for (const name of readdirSync(path).sort())
      if (name !== 'node_modules' && name !== '__pycache__') yield* files(join(path, name))
}

/** A hash of the contents of these files and folders, and of `extra`. */
export function fingerprint(paths, extra = '') {
  const hash = createHash('sha256').update(extra)
  for (const path of paths) for (const file of files(at(path))) hash.update(file).update(readFileSync(file))
  return hash.digest('hex')
}

/** Does `work`, which may be asynchronous, unless it was done for the same fingerprint before. */
export async function once(name, key, work) {
  const stamp = at('.cache', 'stamps', name)
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === key) return
  await work()
  mkdirSync(dirname(stamp), { recursive: true })
  writeFileSync(stamp, key)
}

export function say(text) {
  console.log(`\u2022 ${text}`)
}
