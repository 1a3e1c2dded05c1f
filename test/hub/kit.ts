/** A hub on loopback: repositories of a few bytes, or of folders, that can be told to misbehave. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { join } from 'node:path'
import { type FileOptions, type Handler, sendFile, serve, sha256, type TestServer } from '../libtorch/fixtures.ts'

export type Files = Record<string, string | Buffer>

export const COMMIT = 'c0ffee'.padEnd(40, '0')

const weights = (name: string): Buffer => Buffer.alloc(40_000, name)
/** A repository in the diffusers layout, with much that nobody needs. */
export const TINY: Files = {
  'README.md': '# tiny',
  'model_index.json': JSON.stringify({
    _class_name: 'StableDiffusionPipeline',
    unet: ['diffusers', 'UNet2DConditionModel'],
    vae: ['diffusers', 'AutoencoderKL'],
    text_encoder: ['transformers', 'CLIPTextModel'],
    tokenizer: ['transformers', 'CLIPTokenizer'],
    scheduler: ['diffusers', 'PNDMScheduler'],
    safety_checker: [null, null],
  }),
  'v1.ckpt': weights('everything'),
  'unet/config.json': '{"block_out_channels":[320,640,1280,1280],"cross_attention_dim":768}',
  'unet/diffusion_pytorch_model.safetensors': weights('unet'),
  'unet/diffusion_pytorch_model.fp16.safetensors': weights('un16'),
  'unet/diffusion_pytorch_model.bin': weights('pickle'),
  'vae/config.json': '{"of":"vae"}',
  'vae/diffusion_pytorch_model.safetensors': weights('vae'),
  'text_encoder/config.json': '{"of":"text"}',
  'text_encoder/model.safetensors': weights('text'),
  'tokenizer/vocab.json': '{}',
  'tokenizer/merges.txt': '#version: 0.2\n',
  'scheduler/scheduler_config.json': '{"of":"scheduler"}',
  'safety_checker/model.safetensors': weights('safety'),
}

/** What of TINY is needed. */
export const NEEDED = [
  'model_index.json',
  'scheduler/scheduler_config.json',
  'text_encoder/config.json',
  'text_encoder/model.safetensors',
  'tokenizer/merges.txt',
  'tokenizer/vocab.json',
  'unet/config.json',
  'unet/diffusion_pytorch_model.safetensors',
  'vae/config.json',
  'vae/diffusion_pytorch_model.safetensors',
]

export function filesOf(folder: string): Files {
  const files: Files = {}
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name)
    if (entry.isFile()) files[path.slice(folder.length + 1)] = readFileSync(path)
  }
  return files
}

export function gitSha1(data: Buffer): string {
  return createHash('sha1').update(`blob ${data.length}\0`).update(data).digest('hex')
}

interface Entry {
  type: string
  path: string
  size: number
  oid: string
  lfs?: { oid: string; size: number; pointerSize: number }
}

/** The list of files, as the hub gives it: large ones lie in LFS. */
export function treeOf(files: Files): Entry[] {
  const entries = Object.entries(files).map(([path, content]): Entry => {
    const data = Buffer.from(content)
    const large = /\.(safetensors|bin|ckpt)$/.test(path)
    const lfs = large ? { lfs: { oid: sha256(data), size: data.length, pointerSize: 134 } } : {}
    return { type: 'file', path, size: data.length, oid: gitSha1(data), ...lfs }
  })
  return [{ type: 'directory', path: 'unet', size: 0, oid: '0'.repeat(40) }, ...entries]
}

export interface HubOptions {
  id?: string
  files?: Files
  commit?: string
  /** The list of files, honest or not. */
  tree?: (entries: Entry[]) => unknown
  /** Entries a page. */
  page?: number
  /** Answers the request itself, when it returns true. `path` is without the query. */
  instead?: (path: string, request: IncomingMessage, response: ServerResponse, count: number) => boolean
  /** For a file of the repository. */
  file?: (path: string, count: number) => FileOptions
  /** Where the bytes of large files lie; default: here. */
  storage?: string
}

export interface TestHub extends TestServer {
  env: NodeJS.ProcessEnv
  /** Paths of the files of which bytes were asked for. */
  fetched: string[]
}

/** A hub with one repository. `env` points at it, and at an empty cache in `home`. */
export async function serveHub(home: string, options: HubOptions = {}): Promise<TestHub> {
  const { id = 'tiny/model', files = TINY, commit = COMMIT, tree = (entries) => entries, page = 1000 } = options
  const fetched: string[] = []
  const counts = new Map<string, number>()
  const json = (response: ServerResponse, value: unknown, headers = {}): void => {
    response.writeHead(200, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(value))
  }
  const handler: Handler = (request, response) => {
    const url = new URL(request.url!, 'http://hub')
    const path = decodeURIComponent(url.pathname)
    const count = counts.get(path) ?? 0
    counts.set(path, count + 1)
    if (options.instead?.(path, request, response, count)) return
    const api = `/api/models/${id}`
    if (path.startsWith(`${api}/revision/`) || path === api) {
      const siblings = treeOf(files).flatMap((entry) => (entry.type === 'file' ? [{ rfilename: entry.path }] : []))
      return json(response, { id, sha: commit, siblings })
    }
    if (path.startsWith(`${api}/tree/`)) {
      const all = tree(treeOf(files))
      if (!Array.isArray(all)) return json(response, all)
      const from = Number(url.searchParams.get('cursor') ?? 0)
      const next = `${api}/tree/${commit}?recursive=true&cursor=${from + page}`
      const link = from + page < all.length ? { link: `<${next}>; rel="next"` } : {}
      return json(response, all.slice(from, from + page), link)
    }
    const [, name = ''] = new RegExp(`^/${id}/resolve/[^/]+/(.*)$`).exec(path) ?? []
    const content = files[name]
    if (content === undefined) return void response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end()
    const data = Buffer.from(content)
    const { lfs, oid } = treeOf({ [name]: data })[1]!
    const headers = { 'x-repo-commit': commit, etag: `"${oid}"` }
    if (lfs && options.storage) {
      const location = `${options.storage}/${lfs.oid}`
      const linked = { 'x-linked-etag': `"${lfs.oid}"`, 'x-linked-size': lfs.size }
      return void response.writeHead(302, { ...headers, ...linked, location }).end()
    }
    if (request.method === 'HEAD') {
      const etag = `"${lfs?.oid ?? oid}"`
      return void response.writeHead(200, { ...headers, etag, 'content-length': data.length }).end()
    }
    fetched.push(name)
    response.setHeader('x-repo-commit', commit)
    sendFile(request, response, data, { etag: `"${lfs?.oid ?? oid}"`, ...options.file?.(name, count) })
  }
  const server = await serve(handler)
  return { ...server, fetched, env: { HF_ENDPOINT: server.url, HF_HOME: home } }
}
