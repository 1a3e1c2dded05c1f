/** Copies of LibTorch that hold a few bytes, archives of them, and a server that behaves badly on demand. */

import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs'
import { createServer, request as httpRequest, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { crc32 } from 'node:zlib'
import { LIBTORCH_VERSION } from '../../lib/libtorch/index.ts'

export function temporary(): string {
  return mkdtempSync(join(tmpdir(), 'swap-test-'))
}

/** The files of a Linux LibTorch. */
export function libtorchFiles(version = `${LIBTORCH_VERSION}+cpu`): Record<string, string> {
  return {
    'build-version': `${version}\n`,
    'lib/libc10.so': 'c10',
    'lib/libtorch_cpu.so': 'x'.repeat(200_000),
    'lib/libgomp.so.1': 'gomp',
    'include/torch/script.h': '#pragma once\n',
  }
}

export function writeFiles(root: string, files: Record<string, string>): string {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true })
    writeFileSync(join(root, name), text)
  }
  return root
}

export interface ZipEntry {
  name: string
  data: string | Buffer
  /** Unix mode. */
  mode?: number
}

/** A zip file with stored entries; names go in as they are, good or bad. */
export function zip(entries: ZipEntry[]): Buffer {
  const parts: Buffer[] = []
  const directory: Buffer[] = []
  let offset = 0
  for (const { name, data, mode = 0o100644 } of entries) {
    const bytes = Buffer.from(data)
    const title = Buffer.from(name)
    const local = Buffer.alloc(30)
    local.writeUInt32LE(0x04034b50, 0)
    local.writeUInt16LE(20, 4)
    local.writeUInt32LE(crc32(bytes), 14)
    local.writeUInt32LE(bytes.length, 18)
    local.writeUInt32LE(bytes.length, 22)
    local.writeUInt16LE(title.length, 26)
    const central = Buffer.alloc(46)
    central.writeUInt32LE(0x02014b50, 0)
    central.writeUInt16LE((3 << 8) | 20, 4)
    local.copy(central, 6, 4, 30)
    central.writeUInt32LE((mode << 16) >>> 0, 38)
    central.writeUInt32LE(offset, 42)
    parts.push(local, title, bytes)
    directory.push(central, title)
    offset += local.length + title.length + bytes.length
  }
  const list = Buffer.concat(directory)
  const end = Buffer.alloc(22)
  end.writeUInt32LE(0x06054b50, 0)
  end.writeUInt16LE(entries.length, 8)
  end.writeUInt16LE(entries.length, 10)
  end.writeUInt32LE(list.length, 12)
  end.writeUInt32LE(offset, 16)
  return Buffer.concat([...parts, list, end])
}

export function zipOf(files: Record<string, string>, prefix = 'libtorch/'): Buffer {
  return zip(Object.entries(files).map(([name, data]) => ({ name: prefix + name, data })))
}

export function sha256(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex')
}

export type Handler = (request: IncomingMessage, response: ServerResponse, count: number) => void

export interface TestServer {
  url: string
  requests: IncomingMessage[]
  server: Server
  close(): Promise<void>
}

/** A server on loopback; the handler gets the number of the request, from 0. */
export async function serve(handler: Handler): Promise<TestServer> {
  const requests: IncomingMessage[] = []
  const server = createServer((request, response) => {
    requests.push(request)
    handler(request, response, requests.length - 1)
  })
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done))
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    requests,
    server,
    close: () =>
      new Promise((done) => {
        server.closeAllConnections()
        server.close(() => done())
      }),
  }
}

/** A proxy on loopback, and what it was asked for. */
export async function serveProxy(): Promise<TestServer & { asked: string[] }> {
  const asked: string[] = []
  const proxy = await serve((request, response) => {
    asked.push(request.url!)
    request.pipe(
      httpRequest(request.url!, { method: request.method, headers: request.headers }, (answer) => {
        response.writeHead(answer.statusCode!, answer.headers)
        answer.pipe(response)
      }),
    )
  })
  proxy.server.on('connect', (request, socket) => {
    asked.push(request.url!)
    const [host, port] = request.url!.split(':')
    const upstream = connect(Number(port), host, () => {
      socket.write('HTTP/1.1 200 Connection Established\r\n\r\n')
      upstream.pipe(socket)
      socket.pipe(upstream)
    })
    for (const end of [socket, upstream]) end.on('error', () => {})
  })
  return { ...proxy, asked }
}

export interface FileOptions {
  etag?: string
  /** Bytes of the body after which the connection is cut. */
  cutAfter?: number
  /** Answer every request from the beginning. */
  ignoreRange?: boolean
}

/** Answers with `data` as a careful server does: ranges, If-Range, ETag. */
export function sendFile(
  request: IncomingMessage,
  response: ServerResponse,
  data: Buffer,
  { etag = '"v1"', cutAfter, ignoreRange = false }: FileOptions = {},
): void {
  const range = /^bytes=(\d+)-$/.exec(request.headers.range ?? '')
  const condition = request.headers['if-range']
  const start = !ignoreRange && range && (!condition || condition === etag) ? Number(range[1]) : undefined
  if (start !== undefined && start >= data.length) {
    response.writeHead(416, { 'content-range': `bytes */${data.length}` }).end()
    return
  }
  const body = data.subarray(start ?? 0)
  response.writeHead(start === undefined ? 200 : 206, {
    etag,
    'content-length': body.length,
    ...(start !== undefined && { 'content-range': `bytes ${start}-${data.length - 1}/${data.length}` }),
  })
  if (cutAfter === undefined) response.end(body)
  else response.write(body.subarray(0, cutAfter), () => request.socket.destroy())
}
