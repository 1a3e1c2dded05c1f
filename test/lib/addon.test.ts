import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { enginePath, findAddon, hasEngine, loadAddon, NATIVE_ABI } from '../../lib/addon.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'swap-addon-'))
})
afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(folder, { recursive: true, force: true })
})

const chosen = async (name: string, content: string) => {
  await writeFile(join(folder, name), content)
  vi.stubEnv('SWAP_NATIVE_BINDING', join(folder, name))
}

test('SWAP_NATIVE_BINDING names the addon', async () => {
  await chosen('addon.cjs', `exports.abi = ${NATIVE_ABI}`)
  expect(findAddon()).toBe(join(folder, 'addon.cjs'))
  expect(loadAddon().abi).toBe(NATIVE_ABI)
})

test('one that is missing', () => {
  vi.stubEnv('SWAP_NATIVE_BINDING', join(folder, 'no.node'))
  expect(() => loadAddon()).toThrow(expect.objectContaining({ code: 'SWAP_ENGINE_MISSING' }))
})

test('one that cannot be loaded', async () => {
  await chosen('addon.node', 'not a library')
  expect(() => loadAddon()).toThrow(expect.objectContaining({ code: 'SWAP_ENGINE_LOAD' }))
})

test('one of another version of the package', async () => {
  await chosen('addon.cjs', 'exports.abi = 99')
  expect(() => loadAddon()).toThrow(expect.objectContaining({ code: 'SWAP_ENGINE_ABI' }))
})

test('the engine library beside it, or the one that SWAP_ENGINE_LIBRARY names', async () => {
  vi.stubEnv('SWAP_ENGINE_LIBRARY', '')
  const missing = expect.objectContaining({ code: 'SWAP_ENGINE_MISSING' })
  expect(hasEngine(folder, 'cpu')).toBe(false)
  expect(() => enginePath(folder, 'cpu')).toThrow(missing)
  vi.stubEnv('SWAP_ENGINE_LIBRARY', join(folder, 'mine.so'))
  expect(() => enginePath(folder, 'cpu')).toThrow(missing)
  await writeFile(join(folder, 'mine.so'), '')
  expect(enginePath('/elsewhere', 'cpu')).toBe(join(folder, 'mine.so'))
})
