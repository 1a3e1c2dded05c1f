import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { LIBTORCH_VERSION } from '../../lib/libtorch/index.ts'
import { libtorchFiles, sendFile, serve, writeFiles, zipOf } from '../libtorch/fixtures.ts'
import { swap, temporary } from './kit.ts'

describe('swap doctor', () => {
  it('says what was found, an object a line', async () => {
    const SWAP_LIBTORCH = writeFiles(temporary(), libtorchFiles())
    const { code, events } = await swap(['doctor', '--json'], { env: { SWAP_LIBTORCH } })
    const checks = new Map(events.map((event) => [event.name, event]))
    expect([...checks.keys()]).toEqual(['node', 'libtorch', 'engine', 'device', 'cpu', 'model', 'disk'])
    expect(checks.get('libtorch')).toMatchObject({ status: 'ok', found: expect.stringContaining(SWAP_LIBTORCH) })
    expect(checks.get('engine')).toMatchObject({ status: 'ok', found: 'the engine loads' })
    expect(checks.get('device')).toMatchObject({ found: 'cpu' })
    expect(checks.get('model')).toMatchObject({ status: 'ok', found: expect.stringContaining('128 px') })
    expect(code).toBe(0)
  })

  it('says what is missing and how to get it, with exit code 1', async () => {
    const { code, stdout, stderr } = await swap(['doctor'], { env: { SWAP_LIBTORCH: '/does/not/exist' } })
    expect(stdout).toMatch(/MISSING {2}libtorch .*\/does\/not\/exist/)
    expect(stdout).toContain('-> unset SWAP_LIBTORCH or correct it')
    expect(stderr).toContain('missing: libtorch')
    expect(code).toBe(1)
  })

  it('names another version of LibTorch', async () => {
    const SWAP_LIBTORCH = writeFiles(temporary(), libtorchFiles('2.4.0+cpu'))
    const { events } = await swap(['doctor', '--json'], { env: { SWAP_LIBTORCH } })
    expect(events.find(({ name }) => name === 'libtorch')).toMatchObject({
      status: 'bad',
      found: expect.stringMatching(/2\.4\.0.*2\.13\.0 is needed/),
    })
  })

  it('survives a LibTorch that cannot be loaded', async () => {
    const env = { SWAP_LIBTORCH: writeFiles(temporary(), libtorchFiles()), SWAP_ENGINE_LIBRARY: '' }
    const { code, events } = await swap(['doctor', '--json'], { env })
    expect(events.find(({ name }) => name === 'engine')).toMatchObject({
      status: 'bad',
      found: expect.stringContaining('libgomp.so.1'),
    })
    expect(code).toBe(1)
  })
})

describe('without LibTorch', () => {
  it('a command says what to run', async () => {
    const env = { SWAP_ENGINE_LIBRARY: '', SWAP_CACHE: temporary(), PATH: temporary() }
    const { code, stderr } = await swap(['generate', 'x'], { env })
    expect(code).toBe(1)
    expect(stderr).toContain('[SWAP_LIBTORCH_MISSING]')
    expect(stderr).toMatch(/^hint: .*npx swap setup/m)
  })
})

describe('swap setup', () => {
  it('has nothing to do where LibTorch is there', async () => {
    const SWAP_LIBTORCH = writeFiles(temporary(), libtorchFiles())
    const { code, events } = await swap(['setup', '--if-missing', '--json'], { env: { SWAP_LIBTORCH } })
    expect(code).toBe(0)
    expect(events).toEqual([
      { type: 'result', version: LIBTORCH_VERSION, flavour: 'cpu', root: SWAP_LIBTORCH, source: 'SWAP_LIBTORCH' },
    ])
  })

  it('refuses a mirror with other bytes than are pinned', async () => {
    const forged = zipOf(libtorchFiles())
    const server = await serve((request, response) => sendFile(request, response, forged))
    try {
      const SWAP_CACHE = temporary()
      const env = { SWAP_LIBTORCH_URL: server.url, SWAP_CACHE, HTTP_PROXY: '', http_proxy: '', NO_PROXY: '127.0.0.1' }
      const { code, stderr } = await swap(['setup'], { env })
      expect(server.requests.map(({ url }) => url)).toEqual([expect.stringMatching(/^\/cpu\/libtorch-.*2\.13\.0/)])
      expect(stderr).toContain('[SWAP_LIBTORCH_CHECKSUM]')
      // Before a byte of it is fetched: the size gives it away.
      expect(stderr).toMatch(/has \d+ bytes; \d+ are expected/)
      expect(code).toBe(1)
      expect(existsSync(join(SWAP_CACHE, 'setup.lock'))).toBe(false)
    } finally {
      await server.close()
    }
  })
})
