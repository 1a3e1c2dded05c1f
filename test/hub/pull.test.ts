/** Models from a hub on loopback: what is fetched, where it lies, and what an ill-behaved hub gets. */
import { spawnSync } from 'node:child_process'
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { SwapError } from '../../lib/errors.ts'
import { listModels, locateModel, type PullOptions, parseReference, pull } from '../../lib/hub/index.ts'
import { serve, serveProxy, sha256, type TestServer, temporary } from '../libtorch/fixtures.ts'
import { COMMIT, type Files, gitSha1, type HubOptions, NEEDED, serveHub, type TestHub, TINY } from './kit.ts'

const UNET = 'unet/diffusion_pytorch_model.safetensors'
const reference = { id: 'tiny/model', revision: 'main' }
const proxies = ['http_proxy', 'HTTP_PROXY', 'https_proxy', 'HTTPS_PROXY', 'no_proxy', 'NO_PROXY']
const before = Object.fromEntries(proxies.map((name) => [name, process.env[name]]))

let home: string
let hub: TestHub | undefined
let others: TestServer[]

beforeEach(() => {
  home = temporary()
  others = []
  for (const name of proxies) delete process.env[name]
})

afterEach(async () => {
  for (const server of [hub, ...others]) await server?.close()
  hub = undefined
  for (const [name, value] of Object.entries(before))
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
})

const repository = (...path: string[]): string => join(home, 'hub', 'models--tiny--model', ...path)
const snapshot = (path: string, commit = COMMIT): string => repository('snapshots', commit, path)

function again(options: PullOptions = {}, revision = 'main') {
  return pull({ ...reference, revision }, { retryDelay: 0, ...options, env: { ...hub?.env, ...options.env } })
}

async function pulled(hubOptions: HubOptions = {}, options: PullOptions = {}) {
  hub = await serveHub(home, hubOptions)
  return await again(options)
}

/** Files in the snapshot, sorted. */
function present(commit = COMMIT): string[] {
  const root = repository('snapshots', commit)
  if (!existsSync(root)) return []
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .sort()
}

describe('a model from the hub', () => {
  it('is the files that are needed, in the layout of the cache', async () => {
    const seen: number[] = []
    const result = await pulled({}, { onProgress: ({ done, total }) => total > 0 && seen.push(done / total) })
    expect(present()).toEqual(NEEDED)
    for (const path of NEEDED) {
      const data = Buffer.from(TINY[path]!)
      expect(readFileSync(snapshot(path)).equals(data)).toBe(true)
      expect(lstatSync(snapshot(path)).isSymbolicLink()).toBe(true)
      const name = path.endsWith('.safetensors') ? sha256(data) : gitSha1(data)
      expect(readFileSync(repository('blobs', name)).equals(data)).toBe(true)
    }
    expect(readFileSync(repository('refs', 'main'), 'utf8')).toBe(COMMIT)
    expect(readdirSync(repository('blobs')).filter((name) => name.includes('.'))).toEqual([])
    expect(readdirSync(join(home, 'hub', '.locks', 'models--tiny--model'))).toEqual([])
    const size = NEEDED.reduce((sum, path) => sum + Buffer.byteLength(TINY[path]!), 0)
    expect(result).toEqual({
      path: repository('snapshots', COMMIT),
      commit: COMMIT,
      files: NEEDED.length,
      size,
      fetched: size,
    })
    expect(seen.at(-1)).toBe(1)
    expect(seen).toEqual([...seen].sort((a, b) => a - b))
  })

  it('is not fetched twice', async () => {
    await pulled()
    const first = hub!.fetched.length
    expect(await again()).toMatchObject({ fetched: 0 })
    expect(hub!.fetched).toHaveLength(first)
  })

  it('has the smaller weights where they are wanted and there', async () => {
    await pulled({}, { variant: 'fp16' })
    expect(present()).toEqual(NEEDED.map((path) => (path === UNET ? path.replace('.safe', '.fp16.safe') : path)))
  })

  it('may be in shards, and in several pages of a list', async () => {
    const { [UNET]: _, ...rest } = TINY
    const shard = (k: number): string => `diffusion_pytorch_model-0000${k}-of-00002.safetensors`
    const files = {
      ...rest,
      'unet/diffusion_pytorch_model.safetensors.index.json': JSON.stringify({
        weight_map: { a: shard(1), b: shard(2) },
      }),
      [`unet/${shard(1)}`]: 'one',
      [`unet/${shard(2)}`]: 'two',
    }
    await pulled({ files, page: 3 })
    expect(present()).toContain(`unet/${shard(1)}`)
    expect(present()).toContain(`unet/${shard(2)}`)
    expect(present()).not.toContain('unet/diffusion_pytorch_model.fp16.safetensors')
  })

  it('may be one part alone, such as a ControlNet', async () => {
    const files = { 'config.json': '{}', 'diffusion_pytorch_model.safetensors': 'weights', 'picture.png': 'x' }
    await pulled({ files })
    expect(present()).toEqual(['config.json', 'diffusion_pytorch_model.safetensors'])
  })

  it('of a branch, a tag, a commit', async () => {
    hub = await serveHub(home)
    await again({}, 'refs/pr/1')
    expect(readFileSync(repository('refs', 'refs', 'pr', '1'), 'utf8')).toBe(COMMIT)
    await again({}, COMMIT)
    expect(readdirSync(repository('refs'))).toEqual(['refs'])
    expect(hub.requests.map(({ url }) => url)).toContain('/api/models/tiny/model/revision/refs%2Fpr%2F1')
  })

  it('moves on with its branch, and fetches what is new', async () => {
    await pulled()
    await hub!.close()
    const other = 'd'.repeat(40)
    hub = await serveHub(home, { commit: other, files: { ...TINY, 'vae/config.json': '{"new":true}' } })
    await again()
    expect(hub.fetched).toEqual(['vae/config.json'])
    expect(readFileSync(snapshot('vae/config.json', other), 'utf8')).toBe('{"new":true}')
    expect(readFileSync(snapshot('vae/config.json'), 'utf8')).toBe(TINY['vae/config.json'])
    expect(readFileSync(repository('refs', 'main'), 'utf8')).toBe(other)
  })

  it('keeps what was there while a newer revision cannot be had', async () => {
    await pulled()
    await hub!.close()
    const files = { ...TINY, [UNET]: 'new' }
    hub = await serveHub(home, { commit: 'd'.repeat(40), files, instead: answer(/resolve/, 503) })
    await expect(again()).rejects.toMatchObject({ code: 'SWAP_HUB_UNREACHABLE' })
    expect(readFileSync(repository('refs', 'main'), 'utf8')).toBe(COMMIT)
    expect((await locateModel('tiny/model', { env: { ...hub.env, HF_HUB_OFFLINE: '1' } })).path).toBe(
      repository('snapshots', COMMIT),
    )
  })

  it('lies in the snapshot itself where links are refused', async () => {
    await pulled({}, { env: { HF_HUB_DISABLE_SYMLINKS: '1' } })
    expect(present()).toEqual(NEEDED)
    for (const path of NEEDED) expect(lstatSync(snapshot(path)).isFile()).toBe(true)
    expect(readdirSync(repository('blobs'))).toEqual([])
    expect(await again({ env: { HF_HUB_DISABLE_SYMLINKS: '1' } })).toMatchObject({ fetched: 0 })
  })

  it('is not fetched by two processes at once, but what one left behind is taken over', async () => {
    const locks = join(home, 'hub', '.locks', 'models--tiny--model')
    const lock = join(locks, 'swap.lock')
    mkdirSync(locks, { recursive: true })
    writeFileSync(lock, String(process.ppid))
    await expect(pulled()).rejects.toMatchObject({
      code: 'SWAP_HUB_BUSY',
      message: expect.stringContaining(`tiny/model is being fetched by another process (${process.ppid})`),
    })
    expect(hub!.requests).toEqual([])
    expect(readFileSync(lock, 'utf8')).toBe(String(process.ppid))
    const { pid } = spawnSync(process.execPath, ['--version'])
    writeFileSync(lock, String(pid))
    expect(await again()).toMatchObject({ files: NEEDED.length })
    expect(existsSync(lock)).toBe(false)
  })

  it('goes through the proxy of the environment', async () => {
    hub = await serveHub(home)
    const proxy = await serveProxy()
    others.push(proxy)
    process.env.HTTP_PROXY = proxy.url
    await again()
    expect(proxy.asked.length).toBeGreaterThan(0)
    expect(proxy.asked.every((url) => url.includes(hub!.url.slice('http://'.length)))).toBe(true)
  })
})

describe('where a model is looked for', () => {
  const locate = (model: string, env: NodeJS.ProcessEnv = {}) =>
    locateModel(model, { retryDelay: 0, env: { ...hub?.env, ...env } })

  it('a path that is there is a path, whatever else it could be', async () => {
    expect(await locate('lib/hub')).toEqual({ path: 'lib/hub' })
    expect(await locate('mini')).toEqual({ path: 'mini' })
    expect(await locate('./no/such')).toEqual({ path: './no/such' })
    expect(await locate('no-such')).toEqual({ path: 'no-such' })
  })

  it.each(['a.safetensors', 'a.ckpt', 'a.pth', 'a.PT', 'a.bin'])('nets/%s is a path, there or not', async (name) => {
    hub = await serveHub(home)
    expect(await locate(`nets/${name}`)).toEqual({ path: `nets/${name}` })
    expect(hub.requests).toEqual([])
  })

  it('in the cache, without a word to the hub', async () => {
    await pulled()
    const asked = hub!.requests.length
    const expected = { path: repository('snapshots', COMMIT), name: 'tiny/model' }
    expect(await locate('tiny/model')).toEqual(expected)
    expect(await locate('tiny/model', { HF_HUB_OFFLINE: '1' })).toEqual(expected)
    expect(await locate(`tiny/model@${COMMIT}`)).toEqual({ ...expected, name: `tiny/model@${COMMIT}` })
    expect(hub!.requests).toHaveLength(asked)
  })

  it('on the hub, where the cache has a part of it only', async () => {
    hub = await serveHub(home, { file: (path) => (path === UNET ? { cutAfter: 10_000 } : {}) })
    await expect(locate('tiny/model')).resolves.toMatchObject({ name: 'tiny/model' })
    expect(hub.fetched.filter((path) => path === UNET)).toHaveLength(4)
    const [whole, ...rest] = (await listModels(hub.env)).slice(1)
    expect(rest).toEqual([])
    expect(whole).toMatchObject({ model: 'tiny/model', family: 'sd1', whole: true })
  })

  it.each(['HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE'])('nowhere, where %s is set', async (name) => {
    await expect(locate('tiny/model', { HF_HOME: home, [name]: '1' })).rejects.toMatchObject({
      code: 'SWAP_HUB_OFFLINE',
      hint: expect.stringContaining('swap pull tiny/model'),
    })
    await expect(again({ env: { HF_HOME: home, [name]: '1' } })).rejects.toMatchObject({ code: 'SWAP_HUB_OFFLINE' })
  })

  it('in the folder that the environment names', async () => {
    await pulled()
    const env = { HF_HOME: '/nowhere', HF_HUB_OFFLINE: '1', HF_HUB_CACHE: join(home, 'hub') }
    expect((await locate('tiny/model', env)).path).toBe(repository('snapshots', COMMIT))
  })

  it.each([
    ['a/b', 'a/b', 'main'],
    ['a/b@v1.0', 'a/b', 'v1.0'],
    ['a/b@refs/pr/3', 'a/b', 'refs/pr/3'],
    ['stable-diffusion-v1-5/x_y.z', 'stable-diffusion-v1-5/x_y.z', 'main'],
  ])('%s is on the hub', (text, id, revision) => {
    expect(parseReference(text)).toEqual({ id, revision })
  })

  it.each([
    'a',
    'a/b/c',
    './a/b',
    '../a',
    '/a/b',
    'a/..',
    '../b',
    'a--b/c',
    'a/b..c',
    '.a/b',
    'a/b.',
    'a\\b/c',
    'a b/c',
    '',
  ])('%j is not', (text) => expect(parseReference(text)).toBeUndefined())

  it.each([
    'a/b@',
    'a/b@../x',
    'a/b@x/../y',
    'a/b@/x',
    'a/b@x y',
    'a/b@.hidden',
    `a/b@${'x'.repeat(300)}`,
    'a/b@x\u001b',
  ])('%j is refused', (text) => {
    expect(() => parseReference(text)).toThrow(expect.objectContaining({ code: 'SWAP_HUB_REFERENCE' }))
  })
})

describe('connections', () => {
  it('that break are taken up where they broke', async () => {
    await pulled({ file: (path, count) => (path === UNET && count < 3 ? { cutAfter: 10_000 } : {}) })
    const ranges = hub!.requests.filter(({ url }) => url!.endsWith(UNET)).map(({ headers }) => headers.range)
    expect(ranges).toEqual([undefined, 'bytes=10000-', 'bytes=20000-', 'bytes=30000-'])
  })

  it('that are interrupted go on in a later run', async () => {
    hub = await serveHub(home, { file: (path, count) => (path === UNET && count === 0 ? { cutAfter: 15_000 } : {}) })
    const controller = new AbortController()
    const reason = new Error('stop')
    const first = again({
      signal: controller.signal,
      onProgress: ({ file, done }) => file === UNET && done >= 10_000 && controller.abort(reason),
    })
    await expect(first).rejects.toBe(reason)
    expect(existsSync(repository('refs', 'main'))).toBe(false)
    const done = hub.fetched.filter((path) => path !== UNET)
    await again()
    expect(hub.requests.findLast(({ url }) => url!.endsWith(UNET))!.headers.range).toMatch(/^bytes=\d+-$/)
    expect(hub.fetched.filter((path) => path !== UNET && done.includes(path))).toEqual(done)
    expect(present()).toEqual(NEEDED)
  })

  it('lead elsewhere, but the token does not go there', async () => {
    const data = new Map(Object.values(TINY).map((content) => [sha256(Buffer.from(content)), Buffer.from(content)]))
    const storage = await serve((request, response) => response.end(data.get(request.url!.slice(1))))
    others.push(storage)
    await pulled({ storage: storage.url }, { env: { HF_TOKEN: 'hf_secret' } })
    expect(present()).toEqual(NEEDED)
    expect(storage.requests).toHaveLength(3)
    expect(storage.requests.every(({ headers }) => headers.authorization === undefined)).toBe(true)
    expect(hub!.requests.every(({ headers }) => headers.authorization === 'Bearer hf_secret')).toBe(true)
  })

  it('ask for a token, and take the one that Python keeps', async () => {
    const instead: HubOptions['instead'] = (_, { headers }, response) => {
      if (headers.authorization === 'Bearer hf_right') return false
      response.writeHead(401, { 'x-error-code': 'GatedRepo' }).end()
      return true
    }
    const attempt = pulled({ instead })
    await expect(attempt).rejects.toMatchObject({
      code: 'SWAP_HUB_TOKEN',
      message: expect.stringContaining('no token was sent'),
      hint: expect.stringContaining('HF_TOKEN'),
    })
    const wrong = again({ env: { HF_TOKEN: 'hf_wrong' } })
    await expect(wrong).rejects.toMatchObject({ message: expect.stringContaining('does not open it') })
    await expect(wrong).rejects.not.toThrow('hf_wrong')
    writeFileSync(join(home, 'token'), 'hf_right\n')
    await expect(again({ env: { HF_HUB_DISABLE_IMPLICIT_TOKEN: '1' } })).rejects.toMatchObject({
      code: 'SWAP_HUB_TOKEN',
    })
    await again()
    expect(present()).toEqual(NEEDED)
  })

  it.each([
    ['a host that does not exist', 'http://no-such-host.invalid'],
    ['a port that nobody listens at', 'http://127.0.0.1:9'],
  ])('to %s', async (_, endpoint) => {
    await expect(again({ env: { HF_HOME: home, HF_ENDPOINT: endpoint } })).rejects.toMatchObject({
      code: 'SWAP_HUB_UNREACHABLE',
      hint: expect.stringContaining('HTTPS_PROXY'),
    })
  })
})

type Row = [what: string, code: string, part: string, options: HubOptions]
const answer =
  (path: RegExp, status: number, body: string | Buffer = '', headers = {}): HubOptions['instead'] =>
  (asked, _, response) => {
    if (!path.test(asked)) return false
    response.writeHead(status, headers).end(body)
    return true
  }
const API = /^\/api\//
const INFO = /\/revision\//
const TREE = /\/tree\//
/** The tree with other fields for the U-Net's weights. */
const lie = (change: object) => (entries: { path: string }[]) =>
  entries.map((entry) => (entry.path === UNET ? { ...entry, ...change } : entry))
const without = (...paths: string[]): Files =>
  Object.fromEntries(Object.entries(TINY).filter(([path]) => !paths.some((part) => path.startsWith(part))))
const entry = (path: string) => ({
  tree: (entries: object[]) => [...entries, { type: 'file', path, size: 1, oid: 'a'.repeat(40) }],
})
const indexed = (map: unknown): HubOptions => ({
  files: { ...without(UNET), [`${UNET}.index.json`]: JSON.stringify({ weight_map: map }) },
})
const oid = sha256(Buffer.from(TINY[UNET]!))

const ROWS: Row[] = [
  ['a name that is not there', 'SWAP_HUB_NOT_FOUND', 'tiny/model', { instead: answer(API, 404) }],
  ['a name that it says nothing of', 'SWAP_HUB_TOKEN', '401', { instead: answer(API, 401) }],
  ['a file that is not for everybody', 'SWAP_HUB_TOKEN', '403', { instead: answer(/\/resolve\//, 403) }],
  ['a file that is gone', 'SWAP_HUB_NOT_FOUND', 'tiny/model', { instead: answer(/\/resolve\/.*vae/, 404) }],
  ['a server that is out of order', 'SWAP_HUB_UNREACHABLE', '503', { instead: answer(API, 503) }],
  ['a server that is a teapot', 'SWAP_HUB_UNREACHABLE', '418', { instead: answer(API, 418) }],
  [
    'a redirect to itself',
    'SWAP_HUB_UNREACHABLE',
    'tiny/model',
    { instead: answer(INFO, 302, '', { location: '/api/models/tiny/model/revision/main' }) },
  ],
  ['a page for people', 'SWAP_HUB_ANSWER', 'not JSON', { instead: answer(API, 200, '<html>') }],
  ['an answer cut short', 'SWAP_HUB_ANSWER', 'not JSON', { instead: answer(TREE, 200, '[{"type":"file","path":"mo') }],
  [
    'an answer in Latin-1',
    'SWAP_HUB_ANSWER',
    'not JSON',
    { instead: answer(INFO, 200, Buffer.from('"\xe9"', 'latin1')) },
  ],
  ['an answer of 33 MB', 'SWAP_HUB_ANSWER', 'more than', { instead: answer(INFO, 200, ' '.repeat(33 * 2 ** 20)) }],
  [
    'a list with pages without end',
    'SWAP_HUB_ANSWER',
    'pages',
    { instead: answer(TREE, 200, '[]', { link: '</api/models/tiny/model/tree/x>; rel="next"' }) },
  ],
  ['no commit', 'SWAP_HUB_ANSWER', 'commit', { instead: answer(INFO, 200, '{}') }],
  ['a commit that climbs out', 'SWAP_HUB_ANSWER', '../../../evil', { commit: '../../../evil' }],
  ['a list that is none', 'SWAP_HUB_ANSWER', 'no list', { tree: () => ({ error: 'x' }) }],
  ['an entry without a path', 'SWAP_HUB_ANSWER', 'no path', { tree: () => [{ type: 'file' }] }],
  ['a file ../evil', 'SWAP_HUB_ANSWER', '../evil', entry('../evil')],
  ['a file unet/../../evil', 'SWAP_HUB_ANSWER', 'evil', entry('unet/../../evil')],
  ['a file /etc/passwd', 'SWAP_HUB_ANSWER', '/etc/passwd', entry('/etc/passwd')],
  ['a file ..\\evil', 'SWAP_HUB_ANSWER', 'evil', entry('..\\evil')],
  ['a file C:evil', 'SWAP_HUB_ANSWER', 'C:evil', entry('C:evil')],
  ['a file with an end in the middle', 'SWAP_HUB_ANSWER', 'evil', entry('evil\u0000.json')],
  [
    'a checksum that climbs out',
    'SWAP_HUB_ANSWER',
    'checksum',
    { tree: lie({ lfs: { oid: `../../${'a'.repeat(58)}`, size: 40_000 } }) },
  ],
  [
    'a checksum of another kind',
    'SWAP_HUB_ANSWER',
    'checksum',
    { tree: lie({ lfs: { oid: 'a'.repeat(40), size: 40_000 } }) },
  ],
  ['a size below nothing', 'SWAP_HUB_ANSWER', '-1', { tree: lie({ lfs: { oid, size: -1 } }) }],
  ['a size that no disk has', 'SWAP_HUB_DISK', 'GB', { tree: lie({ lfs: { oid, size: 2 ** 52 } }) }],
  ['a size that is too large', 'SWAP_HUB_CHECKSUM', '40001', { tree: lie({ lfs: { oid, size: 40_001 } }) }],
  ['a size that is too small', 'SWAP_HUB_CHECKSUM', '39999', { tree: lie({ lfs: { oid, size: 39_999 } }) }],
  [
    'a wrong checksum of large files',
    'SWAP_HUB_CHECKSUM',
    oid,
    { tree: lie({ lfs: { oid: 'b'.repeat(64), size: 40_000 } }) },
  ],
  ['other bytes than it said', 'SWAP_HUB_CHECKSUM', oid, { instead: answer(/unet\/diff/, 200, 'x'.repeat(40_000)) }],
  [
    'other bytes of a small file',
    'SWAP_HUB_CHECKSUM',
    "git's SHA-1",
    { instead: answer(/vae\/config/, 200, '{"of":"eav"}') },
  ],
  [
    'a file without end',
    'SWAP_HUB_CHECKSUM',
    'more bytes',
    {
      instead: (path, _, response) => {
        if (!path.endsWith(UNET)) return false
        const pour = (): void => void (response.writable && response.write(Buffer.alloc(30_000), pour))
        pour()
        return true
      },
    },
  ],
  [
    'a file that ends early, every time',
    'SWAP_HUB_UNREACHABLE',
    'of 40000 bytes',
    {
      instead: (path, _, response) => {
        if (!path.endsWith(UNET)) return false
        // Without a length: that it is short shows in nothing but the size that was promised.
        response.write('x'.repeat(1000), () => response.end())
        return true
      },
    },
  ],
  [
    'a model_index.json that is none',
    'SWAP_HUB_ANSWER',
    'model_index.json',
    { files: { ...TINY, 'model_index.json': '[1]' } },
  ],
  ['a single file', 'SWAP_HUB_LAYOUT', 'model_index.json', { files: { 'v1.safetensors': 'x' } }],
  [
    'a model of another kind',
    'SWAP_HUB_LAYOUT',
    'unet',
    { files: { ...TINY, 'model_index.json': '{"transformer":["diffusers","FluxTransformer2DModel"]}' } },
  ],
  ['no weights', 'SWAP_HUB_LAYOUT', 'vae/diffusion', { files: without('vae/diff') }],
  [
    'pickles only',
    'SWAP_MODEL_PICKLE',
    'tiny/model/unet',
    { files: without(UNET, 'unet/diffusion_pytorch_model.fp16') },
  ],
  ['half a tokenizer', 'SWAP_HUB_LAYOUT', 'merges.txt', { files: without('tokenizer/merges') }],
  ['no scheduler', 'SWAP_HUB_LAYOUT', 'scheduler', { files: without('scheduler') }],
  ['shards without a map', 'SWAP_HUB_LAYOUT', 'weight_map', indexed(undefined)],
  ['a shard that is not there', 'SWAP_HUB_LAYOUT', 'unet/a.safetensors', indexed({ w: 'a.safetensors' })],
  [
    'a shard that climbs out',
    'SWAP_MODEL_SHARD',
    '../vae',
    indexed({ w: '../vae/diffusion_pytorch_model.safetensors' }),
  ],
  ['a shard that is a pickle', 'SWAP_MODEL_SHARD', '.bin', indexed({ w: 'diffusion_pytorch_model.bin' })],
]

describe('a hub that gives', () => {
  it.each(ROWS)('%s', async (_, code, part, options) => {
    const error = await pulled(options).catch((raised: unknown) => raised)
    expect(error).toBeInstanceOf(SwapError)
    expect(error).toMatchObject({ code, message: expect.stringContaining(part) })
    expect((error as Error).message.length).toBeLessThan(500)
    // No name points at what is not whole, and nothing lies where nothing belongs.
    expect(existsSync(repository('refs'))).toBe(false)
    expect(readdirSync(home)).toEqual(['hub'])
    expect(readdirSync(join(home, 'hub')).filter((name) => !/^(\.locks|models--tiny--model)$/.test(name))).toEqual([])
    expect(present().every((path) => NEEDED.includes(path) || path.endsWith('.index.json'))).toBe(true)
    expect(existsSync(snapshot(UNET))).toBe(false)
  })
})

it.each([
  ['an endpoint that is no address', { HF_ENDPOINT: 'huggingface' }],
  ['an endpoint that is a file', { HF_ENDPOINT: 'file:///etc' }],
  ['a token with a line break', { HF_TOKEN: 'a\nb' }],
])('%s: SWAP_HUB_SETTING', async (_, env) => {
  const error = await again({ env: { HF_HOME: home, ...env } }).catch((raised: unknown) => raised)
  expect(error).toMatchObject({ code: 'SWAP_HUB_SETTING' })
})
