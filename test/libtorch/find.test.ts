import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeEach, describe, expect, it } from 'vitest'
import { cachedLibtorch, findLibtorch, LIBTORCH_VERSION } from '../../lib/libtorch/index.ts'
import { inspectLibtorch } from '../../lib/libtorch/inspect.ts'
import { libtorchFiles, temporary, writeFiles } from './fixtures.ts'

const linux = process.platform === 'linux'

describe('a folder that may hold LibTorch', () => {
  it('is read for its version, flavour and libraries in load order', async () => {
    const root = writeFiles(temporary(), libtorchFiles())
    expect(await inspectLibtorch(root, 'linux')).toEqual({
      root,
      version: LIBTORCH_VERSION,
      flavour: 'cpu',
      libraries: ['libgomp.so.1', 'libc10.so', 'libtorch_cpu.so'].map((name) => join(root, 'lib', name)),
      cpuLibraries: ['libgomp.so.1', 'libc10.so', 'libtorch_cpu.so'].map((name) => join(root, 'lib', name)),
      missing: [],
    })
  })

  it('may be the one above, or lib itself', async () => {
    const parent = temporary()
    const root = writeFiles(join(parent, 'libtorch'), libtorchFiles())
    expect((await inspectLibtorch(parent, 'linux'))?.root).toBe(root)
    expect((await inspectLibtorch(join(root, 'lib'), 'linux'))?.root).toBe(root)
  })

  it.each([
    ['version.py', "from typing import Optional\n__version__ = '2.4.1+cu121'\ncuda = '12.1'\n", '2.4.1'],
    [
      'include/torch/headeronly/version.h',
      '#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 12\n#define TORCH_VERSION_PATCH 3\n',
      '2.12.3',
    ],
    ['README', 'nothing', 'unknown'],
  ])('says its version in %s', async (file, text, version) => {
    const { 'build-version': _, ...files } = libtorchFiles()
    const root = writeFiles(temporary(), { ...files, [file]: text })
    expect((await inspectLibtorch(root, 'linux'))?.version).toBe(version)
  })

  it('of a CUDA wheel lists what lies in the sibling packages', async () => {
    const site = temporary()
    const root = writeFiles(join(site, 'torch'), {
      ...libtorchFiles('2.13.0+cu130'),
      'lib/libc10_cuda.so': '',
      'lib/libtorch_cuda.so': '',
    })
    expect((await inspectLibtorch(root, 'linux'))?.missing).toEqual(['libcudart.so', 'libcupti.so'])
    writeFiles(site, { 'nvidia/cu13/lib/libcudart.so.13': '', 'nvidia/cu13/lib/libcupti.so.13': '' })
    const found = await inspectLibtorch(root, 'linux')
    expect(found?.flavour).toBe('cuda')
    expect(found?.missing).toEqual([])
    expect(found?.cpuLibraries.map((path) => path.slice(site.length + 1))).toEqual([
      'torch/lib/libgomp.so.1',
      'nvidia/cu13/lib/libcudart.so.13',
      'nvidia/cu13/lib/libcupti.so.13',
      'torch/lib/libc10.so',
      'torch/lib/libtorch_cpu.so',
    ])
    expect(found?.libraries.slice(-2)).toEqual(
      ['libc10_cuda.so', 'libtorch_cuda.so'].map((name) => join(root, 'lib', name)),
    )
  })

  it('finds the OpenMP that auditwheel moved aside', async () => {
    const site = temporary()
    const { 'lib/libgomp.so.1': _, ...files } = libtorchFiles()
    const root = writeFiles(join(site, 'torch'), files)
    const moved = join(
      writeFiles(site, { 'torch.libs/libgomp-a34b3233.so.1.0.0': '' }),
      'torch.libs/libgomp-a34b3233.so.1.0.0',
    )
    expect((await inspectLibtorch(root, 'linux'))?.libraries[0]).toBe(moved)
  })

  it('is nothing without the libraries', async () => {
    expect(await inspectLibtorch(temporary(), 'linux')).toBeUndefined()
    expect(await inspectLibtorch('/does/not/exist', 'linux')).toBeUndefined()
  })
})

describe.runIf(linux)('where LibTorch comes from', () => {
  let cache: string
  let python: string

  /** An interpreter that says where its torch is. */
  function fakePython(torch: string): string {
    const path = join(temporary(), 'python3')
    writeFileSync(path, `#!/bin/sh\necho "${torch}"\n`)
    chmodSync(path, 0o755)
    return path
  }

  beforeEach(() => {
    cache = temporary()
    python = fakePython('')
  })

  const find = (env: NodeJS.ProcessEnv = {}, prefer?: 'cpu' | 'cuda') =>
    findLibtorch({ env: { PATH: process.env.PATH, SWAP_CACHE: cache, ...env }, pythons: [python], prefer })

  /** As `pip install torch` leaves it. */
  function cudaTorch({ whole = true } = {}): string {
    const site = temporary()
    if (whole) writeFiles(site, { 'nvidia/cu13/lib/libcudart.so.13': '', 'nvidia/cu13/lib/libcupti.so.13': '' })
    const cuda = { 'lib/libc10_cuda.so': '', 'lib/libtorch_cuda.so': '' }
    return writeFiles(join(site, 'torch'), { ...libtorchFiles('2.13.0+cu130'), ...cuda })
  }

  it('is SWAP_LIBTORCH first, then the cache, then Python', async () => {
    const fromPython = writeFiles(join(temporary(), 'torch'), libtorchFiles())
    python = fakePython(fromPython)
    expect(await find()).toMatchObject({ root: fromPython, source: 'python' })
    const cached = writeFiles(cachedLibtorch(cache), libtorchFiles())
    expect(await find()).toMatchObject({ root: cached, source: 'cache' })
    const named = writeFiles(temporary(), libtorchFiles())
    expect(await find({ SWAP_LIBTORCH: named })).toMatchObject({ root: named, source: 'SWAP_LIBTORCH' })
  })

  it('is one with CUDA where a GPU is wanted, else the first', async () => {
    const cached = writeFiles(cachedLibtorch(cache), libtorchFiles())
    const torch = cudaTorch()
    python = fakePython(torch)
    expect(await find()).toMatchObject({ root: cached, flavour: 'cpu' })
    expect(await find({}, 'cpu')).toMatchObject({ root: cached })
    expect(await find({}, 'cuda')).toMatchObject({ root: torch, flavour: 'cuda', source: 'python' })
    // What was named on purpose is taken.
    expect(await find({ SWAP_LIBTORCH: cached }, 'cuda')).toMatchObject({ root: cached, source: 'SWAP_LIBTORCH' })
    // One that cannot be loaded is not preferred.
    python = fakePython(cudaTorch({ whole: false }))
    expect(await find({}, 'cuda')).toMatchObject({ root: cached })
    python = fakePython('')
    expect(await find({}, 'cuda')).toMatchObject({ root: cached })
  })

  it('is nowhere: it says what to run', async () => {
    await expect(find()).rejects.toMatchObject({
      code: 'SWAP_LIBTORCH_MISSING',
      message: expect.stringContaining(LIBTORCH_VERSION),
      hint: expect.stringContaining('npx swap setup'),
    })
  })

  it('is never a folder other than the one that SWAP_LIBTORCH names', async () => {
    writeFiles(cachedLibtorch(cache), libtorchFiles())
    await expect(find({ SWAP_LIBTORCH: '/does/not/exist' })).rejects.toMatchObject({
      code: 'SWAP_LIBTORCH_MISSING',
      message: expect.stringContaining('/does/not/exist'),
    })
    const old = writeFiles(temporary(), libtorchFiles('2.1.0+cpu'))
    await expect(find({ SWAP_LIBTORCH: old })).rejects.toMatchObject({
      code: 'SWAP_LIBTORCH_VERSION',
      message: expect.stringMatching(/2\.1\.0.*2\.13\.0/),
    })
  })

  it('is not a Python torch of another version, which is named', async () => {
    python = fakePython(writeFiles(join(temporary(), 'torch'), libtorchFiles('2.4.0+cpu')))
    await expect(find()).rejects.toMatchObject({
      code: 'SWAP_LIBTORCH_VERSION',
      message: expect.stringContaining('2.4.0'),
      hint: expect.stringContaining('npx swap setup'),
    })
  })

  it('needs no Python', async () => {
    python = '/no/such/python'
    await expect(find()).rejects.toMatchObject({ code: 'SWAP_LIBTORCH_MISSING' })
  })
})
