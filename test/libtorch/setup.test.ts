import { chmodSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { cachedLibtorch, type SetupOptions, setupLibtorch } from '../../lib/libtorch/index.ts'
import {
  type Handler,
  libtorchFiles,
  sendFile,
  serve,
  serveProxy,
  sha256,
  type TestServer,
  temporary,
  zip,
  zipOf,
} from './fixtures.ts'

const NO_PYTHON = ['/no/such/python']
const archive = zipOf(libtorchFiles())

// What is unpacked is looked at with Linux's names.
describe.runIf(process.platform === 'linux')('swap setup', () => {
  let cache: string
  let server: TestServer | undefined
  const proxies = ['http_proxy', 'HTTP_PROXY', 'https_proxy', 'HTTPS_PROXY', 'no_proxy', 'NO_PROXY']
  const before = Object.fromEntries(proxies.map((name) => [name, process.env[name]]))

  beforeEach(() => {
    cache = temporary()
    for (const name of proxies) delete process.env[name]
  })

  afterEach(async () => {
    await server?.close()
    server = undefined
    for (const [name, value] of Object.entries(before))
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
  })

  async function setup(handler: Handler, options: SetupOptions = {}, data = archive) {
    server = await serve(handler)
    return await again(options, data)
  }

  function again(options: SetupOptions = {}, data = archive) {
    return setupLibtorch({
      cache,
      baseUrl: server?.url ?? 'http://127.0.0.1:9',
      archive: { path: 'cpu/libtorch-shared-with-deps.zip', sha256: sha256(data), size: data.length },
      pythons: NO_PYTHON,
      retryDelay: 0,
      ...options,
    })
  }

  const whole: Handler = (request, response) => sendFile(request, response, archive)

  function expectNothingInstalled(): void {
    expect(existsSync(cachedLibtorch(cache))).toBe(false)
    expect(readdirSync(cache).filter((name) => name !== 'downloads')).toEqual([])
  }

  it('unpacks the archive into the cache, with progress, and leaves nothing else', async () => {
    const phases = new Map<string, number>()
    const found = await setup(whole, {
      onProgress: ({ phase, done, total }) => {
        expect(done).toBeLessThanOrEqual(total)
        phases.set(phase, done / total)
      },
    })
    expect(found).toMatchObject({ root: cachedLibtorch(cache), version: '2.13.0', flavour: 'cpu', source: 'cache' })
    expect(readFileSync(join(found.root, 'lib/libc10.so'), 'utf8')).toBe('c10')
    expect(Object.fromEntries(phases)).toEqual({ download: 1, unpack: 1 })
    expect(readdirSync(cache)).toEqual([found.root.split('/').at(-1)])
  })

  it('does nothing a second time, unless forced', async () => {
    const { root } = await setup(whole)
    writeFileSync(join(root, 'mark'), '')
    await again()
    expect(server!.requests).toHaveLength(1)
    expect(existsSync(join(root, 'mark'))).toBe(true)
    await again({ force: true })
    expect(server!.requests).toHaveLength(2)
    expect(existsSync(join(root, 'mark'))).toBe(false)
  })

  it('takes a broken connection up where it broke', async () => {
    const found = await setup((request, response, count) =>
      sendFile(request, response, archive, count < 3 ? { cutAfter: 50_000 } : {}),
    )
    expect(found.version).toBe('2.13.0')
    expect(server!.requests.map(({ headers }) => headers.range)).toEqual([
      undefined,
      'bytes=50000-',
      'bytes=100000-',
      'bytes=150000-',
    ])
    expect(server!.requests[1]!.headers['if-range']).toBe('"v1"')
  })

  it('goes on in a later run after an interruption', async () => {
    const controller = new AbortController()
    const reason = new Error('stop')
    let seen = 0
    const first = setup((request, response) => sendFile(request, response, archive, { cutAfter: 120_000 }), {
      signal: controller.signal,
      onProgress: ({ done }) => {
        seen = done
        if (done >= 60_000) controller.abort(reason)
      },
    })
    await expect(first).rejects.toBe(reason)
    expectNothingInstalled()
    await server!.close()
    const url = server!.url
    server = await serve(whole)
    // The same file under the same address, as far as the part file knows.
    const part = join(cache, 'downloads', 'libtorch-shared-with-deps.zip.part.json')
    writeFileSync(part, readFileSync(part, 'utf8').replace(url, server.url))
    await again()
    expect(server.requests).toHaveLength(1)
    expect(server.requests[0]!.headers.range).toMatch(/^bytes=\d+-$/)
    expect(Number(/\d+/.exec(server.requests[0]!.headers.range!)![0])).toBeGreaterThanOrEqual(seen)
  })

  it('begins again when the file on the server is another one now', async () => {
    const other = Buffer.alloc(archive.length, 7)
    const found = await setup((request, response, count) =>
      count === 0
        ? sendFile(request, response, other, { etag: '"old"', cutAfter: 80_000 })
        : sendFile(request, response, archive, { etag: '"new"' }),
    )
    expect(server!.requests[1]!.headers['if-range']).toBe('"old"')
    expect(found.version).toBe('2.13.0')
  })

  it('begins again when the server knows no ranges', async () => {
    const found = await setup((request, response, count) =>
      sendFile(request, response, archive, { ignoreRange: true, ...(count === 0 && { cutAfter: 80_000 }) }),
    )
    expect(server!.requests).toHaveLength(2)
    expect(found.version).toBe('2.13.0')
  })

  it('refuses other bytes than are pinned, and does not ask pip for them', async () => {
    const forged = Buffer.from(archive)
    forged[100] = forged[100]! ^ 1
    const attempt = setup((request, response) => sendFile(request, response, forged))
    await expect(attempt).rejects.toMatchObject({
      code: 'SWAP_LIBTORCH_CHECKSUM',
      message: expect.stringContaining(sha256(forged)),
    })
    expectNothingInstalled()
    expect(readdirSync(join(cache, 'downloads'))).toEqual([])
  })

  it.each([404, 403])('says when the server answers %i', async (status) => {
    const attempt = setup((_, response) => response.writeHead(status).end(), { from: 'archive' })
    await expect(attempt).rejects.toMatchObject({
      code: 'SWAP_LIBTORCH_DOWNLOAD',
      message: expect.stringContaining(String(status)),
      hint: expect.stringContaining('HTTPS_PROXY'),
    })
    expect(server!.requests).toHaveLength(1)
    expectNothingInstalled()
  })

  it('tries again after a fault of the server, and gives up after some', async () => {
    const found = await setup((request, response, count) =>
      count < 2 ? response.writeHead(503).end() : sendFile(request, response, archive),
    )
    expect(found.version).toBe('2.13.0')
    await server!.close()
    const attempt = setup((_, response) => response.writeHead(500).end(), { from: 'archive', force: true })
    await expect(attempt).rejects.toMatchObject({ code: 'SWAP_LIBTORCH_DOWNLOAD' })
    expect(server!.requests).toHaveLength(4)
    // What was installed before stays.
    expect(existsSync(cachedLibtorch(cache))).toBe(true)
  })

  // Both fail with a system error, as a full disk does; only the disk's is a file's error.
  it.each([
    ['a host that does not exist', 'http://no-such-host.invalid'],
    ['a port that nobody listens at', 'http://127.0.0.1:9'],
  ])('says that %s cannot be reached', async (_, baseUrl) => {
    await expect(again({ baseUrl, from: 'archive' })).rejects.toMatchObject({ code: 'SWAP_LIBTORCH_DOWNLOAD' })
    expectNothingInstalled()
  })

  it('goes through the proxy of the environment', async () => {
    const origin = await serve(whole)
    const proxy = await serveProxy()
    process.env.HTTP_PROXY = proxy.url
    try {
      await again({ baseUrl: origin.url })
      expect(proxy.asked).toHaveLength(1)
      expect(proxy.asked[0]).toContain(origin.url.slice('http://'.length))
      expect(origin.requests).toHaveLength(1)
    } finally {
      await proxy.close()
      await origin.close()
    }
  })

  it.each([
    ['../evil', 'climbs out'],
    ['libtorch/../../evil', 'climbs out from within'],
    ['/evil', 'is absolute'],
  ])('refuses an archive with the entry %s, which %s', async (name) => {
    const data = zip([
      ...Object.entries(libtorchFiles()).map(([file, text]) => ({ name: `libtorch/${file}`, data: text })),
      { name, data: 'evil' },
    ])
    await expect(setup((request, response) => sendFile(request, response, data), {}, data)).rejects.toMatchObject({
      code: 'SWAP_LIBTORCH_ARCHIVE',
    })
    expectNothingInstalled()
    expect(existsSync(join(cache, 'evil')) || existsSync(join(cache, '..', 'evil')) || existsSync('/evil')).toBe(false)
  })

  it.each(['/etc', '../..', 'a/../../..'])('refuses an archive with a link to %s', async (target) => {
    const data = zip([
      { name: 'libtorch/lib', data: target, mode: 0o120777 },
      { name: 'libtorch/lib/evil', data: 'evil' },
    ])
    await expect(setup((request, response) => sendFile(request, response, data), {}, data)).rejects.toMatchObject({
      code: 'SWAP_LIBTORCH_ARCHIVE',
    })
    expectNothingInstalled()
  })

  it.each([
    ['cut short', archive.subarray(0, archive.length - 60), 'not a zip file'],
    ['of another version', zipOf(libtorchFiles('2.12.0+cpu')), '2.12.0'],
    ['without LibTorch', zipOf({ 'README.md': '' }), 'no LibTorch'],
  ])('refuses an archive %s', async (_, data, message) => {
    await expect(setup((request, response) => sendFile(request, response, data), {}, data)).rejects.toMatchObject({
      code: 'SWAP_LIBTORCH_ARCHIVE',
      message: expect.stringContaining(message),
    })
    expectNothingInstalled()
  })

  it('says when the disk has too little room, before it fetches anything', async () => {
    server = await serve(whole)
    const attempt = setupLibtorch({
      cache,
      baseUrl: server.url,
      archive: { path: 'a.zip', sha256: sha256(archive), size: 1e15 },
    })
    await expect(attempt).rejects.toMatchObject({
      code: 'SWAP_LIBTORCH_DISK',
      hint: expect.stringContaining('SWAP_CACHE'),
    })
    expect(server.requests).toHaveLength(0)
  })

  it('leaves a set-up that is at work alone, and takes over from one that died', async () => {
    writeFileSync(join(cache, 'setup.lock'), String(process.ppid))
    await expect(setup(whole)).rejects.toMatchObject({ code: 'SWAP_LIBTORCH_BUSY' })
    // Above Linux's largest process id.
    writeFileSync(join(cache, 'setup.lock'), String(2 ** 22 + 1))
    expect((await again()).version).toBe('2.13.0')
    expect(existsSync(join(cache, 'setup.lock'))).toBe(false)
  })

  it('says when the cache folder cannot be made', async () => {
    const file = join(temporary(), 'file')
    writeFileSync(file, '')
    await expect(again({ cache: join(file, 'cache') })).rejects.toMatchObject({ code: 'SWAP_FILE_NOT_FOUND' })
  })

  describe('by pip', () => {
    /** An interpreter whose pip "downloads" this wheel. */
    function pythonWith(files: Record<string, string>): string {
      const folder = temporary()
      writeFileSync(join(folder, 'wheel'), zipOf(files, ''))
      const python = join(folder, 'python3')
      writeFileSync(
        python,
        `#!/bin/sh\nfor last; do :; done\necho "$@" > ${folder}/arguments\ncp ${folder}/wheel "$last/torch-2.13.0-cp311-cp311-linux_x86_64.whl"\n`,
      )
      chmodSync(python, 0o755)
      return python
    }

    const { 'build-version': _, 'lib/libgomp.so.1': __, ...files } = libtorchFiles()
    const wheel = {
      ...Object.fromEntries(Object.entries(files).map(([name, text]) => [`torch/${name}`, text])),
      'torch/version.py': "__version__ = '2.13.0+cpu'\n",
      'torch/nn/module.py': 'import this\n',
      'torch.libs/libgomp-a34b3233.so.1.0.0': 'gomp',
    }

    it('takes the libraries out of the wheel when the archive cannot be reached', async () => {
      const notes: string[] = []
      const python = pythonWith(wheel)
      const found = await setup((__, response) => response.writeHead(403).end(), {
        pythons: ['/no/such/python', python],
        onNote: (note) => notes.push(note),
      })
      expect(found).toMatchObject({ version: '2.13.0', flavour: 'cpu', source: 'cache' })
      expect(found.libraries.map((path) => path.slice(found.root.length + 1))).toEqual([
        'lib/libgomp-a34b3233.so.1.0.0',
        'lib/libc10.so',
        'lib/libtorch_cpu.so',
      ])
      expect(existsSync(join(found.root, 'nn'))).toBe(false)
      expect(notes.join('\n')).toMatch(/403.*asking pip/)
      expect(readFileSync(join(python, '..', 'arguments'), 'utf8')).toContain('pip download torch==2.13.0 --no-deps')
      expect(readdirSync(cache)).not.toContain('pip')
    })

    it('says when the wheel is a CUDA build that does not stand alone', async () => {
      const cuda = { ...wheel, 'torch/lib/libc10_cuda.so': '', 'torch/lib/libtorch_cuda.so': '' }
      await expect(again({ from: 'pip', pythons: [pythonWith(cuda)] })).rejects.toMatchObject({
        code: 'SWAP_LIBTORCH_WHEEL',
        message: expect.stringContaining('libcudart.so'),
        hint: expect.stringContaining('pip install torch==2.13.0'),
      })
      expectNothingInstalled()
    })

    it('says what every interpreter answered', async () => {
      const python = join(temporary(), 'python3')
      writeFileSync(python, '#!/bin/sh\necho "/usr/bin/python3: No module named pip" >&2\nexit 1\n')
      chmodSync(python, 0o755)
      await expect(again({ from: 'pip', pythons: [python, '/no/such/python'] })).rejects.toMatchObject({
        code: 'SWAP_LIBTORCH_PIP',
        message: expect.stringMatching(/No module named pip.*\/no\/such\/python: not found/),
      })
      expectNothingInstalled()
    })
  })
})

it('writes no pinned hash twice', async () => {
  const { archiveFor } = await import('../../lib/libtorch/version.ts')
  const pinned = [archiveFor('linux', 'x64'), archiveFor('darwin', 'arm64'), archiveFor('win32', 'x64')]
  expect(new Set(pinned.map((one) => one?.sha256)).size).toBe(3)
  for (const one of pinned) expect(one?.sha256).toMatch(/^[0-9a-f]{64}$/)
  expect(archiveFor('linux', 'arm64')).toBeUndefined()
})
