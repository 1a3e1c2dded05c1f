import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { DisposedError, SwapError } from '../../lib/errors.ts'
import { type OpenParts, openWith, Personalizer } from '../../lib/personalizer.ts'
import { ENGINE_INFO, nativeError, PROGRESS } from './fake_binding.ts'
import { binding, engine, layoutOf, mini, open, PHOTO, parts, until, useFakeBinding } from './fixture.ts'

useFakeBinding()

const ENGINE_CPU = { linux: 'libswap_engine_cpu.so', darwin: 'libswap_engine_cpu.dylib' }[process.platform as 'linux']

const turn = () => new Promise((resolve) => setImmediate(resolve))

describe('open', () => {
  test('gives the engine the model and says what it runs on', async () => {
    const personalizer = await open({ dtype: 'float32', threads: 3 })
    expect(engine().options).toEqual({ libraries: [], engine: process.execPath })
    const [load] = engine().loads
    expect(load?.request).toEqual({
      spec: mini.spec,
      tensors: mini.tensors,
      device: 'cpu',
      dtype: 'float32',
      threads: 3,
    })
    expect(personalizer.info).toMatchObject({ ...ENGINE_INFO, model: 'mini', family: 'mini', resolution: 128 })
    expect(JSON.parse(JSON.stringify(personalizer.info))).toEqual(
      JSON.parse(JSON.stringify({ ...personalizer.info, warnings: [...mini.warnings] })),
    )
    await personalizer.close()
  })

  describe('with LibTorch', () => {
    let folder: string
    beforeEach(async () => {
      vi.stubEnv('SWAP_ENGINE_LIBRARY', '')
      folder = await mkdtemp(join(tmpdir(), 'swap-engines-'))
      await writeFile(join(folder, ENGINE_CPU), '')
      parts.addonFolder = () => folder
    })
    afterEach(() => rm(folder, { recursive: true, force: true }))
    const found = (flavour: 'cpu' | 'cuda') => {
      const [libraries, cpuLibraries] = [['/torch/cuda.so'], ['/torch/cpu.so']]
      parts.findLibtorch = async () => ({
        root: '/torch',
        version: '2.13.0',
        flavour,
        libraries,
        cpuLibraries,
        missing: [],
        source: 'cache',
      })
    }
    const opened = async (device: string) => {
      await (await open({ device })).close()
      const { options, loads } = binding.engines.at(-1)!
      return { ...options, engine: basename(options.engine), device: loads[0]?.request.device }
    }

    test('for CPUs', async () => {
      found('cpu')
      const cpu = { libraries: ['/torch/cpu.so'], engine: ENGINE_CPU, device: 'cpu' }
      expect(await opened('auto')).toEqual(cpu)
      expect(await opened('cpu')).toEqual(cpu)
      // No LibTorch would help where the package has no engine for GPUs.
      const refused = { code: 'SWAP_DEVICE_UNAVAILABLE', hint: "use device: 'auto'" }
      await expect(open({ device: 'cuda' })).rejects.toMatchObject(refused)
      await writeFile(join(folder, ENGINE_CPU.replace('cpu', 'cuda')), '')
      const named = { code: 'SWAP_DEVICE_UNAVAILABLE', hint: expect.stringContaining('SWAP_LIBTORCH') }
      await expect(open({ device: 'cuda' })).rejects.toMatchObject(named)
    })

    test('for GPUs, with and without an engine for them', async () => {
      found('cuda')
      const cpu = { libraries: ['/torch/cpu.so'], engine: ENGINE_CPU, device: 'cpu' }
      expect(await opened('auto')).toEqual(cpu)
      await expect(open({ device: 'cuda:1' })).rejects.toMatchObject({ code: 'SWAP_DEVICE_UNAVAILABLE' })
      const engineCuda = ENGINE_CPU.replace('cpu', 'cuda')
      await writeFile(join(folder, engineCuda), '')
      const cuda = { libraries: ['/torch/cuda.so'], engine: engineCuda }
      // Without a driver it need not be tried.
      expect(await opened('auto')).toEqual(cpu)
      parts.hasGpuDriver = () => true
      // The engine takes the GPU, or the CPU where the driver has none.
      expect(await opened('auto')).toEqual({ ...cuda, device: 'auto' })
      expect(await opened('cuda:1')).toEqual({ ...cuda, device: 'cuda:1' })
      expect(await opened('cpu')).toEqual(cpu)
    })

    test('a LibTorch with CUDA is preferred where a GPU is asked for or may be used', async () => {
      found('cpu')
      const { findLibtorch } = parts
      const asked: string[] = []
      parts.findLibtorch = async (prefer) => {
        asked.push(prefer)
        return await findLibtorch(prefer)
      }
      await opened('auto')
      await opened('cpu')
      await expect(open({ device: 'cuda' })).rejects.toMatchObject({ code: 'SWAP_DEVICE_UNAVAILABLE' })
      parts.hasGpuDriver = () => true
      await opened('auto')
      await opened('cpu')
      expect(asked).toEqual(['cpu', 'cpu', 'cuda', 'cuda', 'cpu'])
    })

    test('a LibTorch with CUDA that cannot be opened: auto takes the CPU, cuda says why', async () => {
      found('cuda')
      parts.hasGpuDriver = () => true
      await writeFile(join(folder, ENGINE_CPU.replace('cpu', 'cuda')), '')
      const openLibraries = binding.openLibraries
      binding.openLibraries = async (options) => {
        if (options.libraries[0] === '/torch/cuda.so') throw nativeError('SWAP_LIBTORCH_LOAD', 'libcublas.so.13')
        await openLibraries.call(binding, options)
      }
      try {
        expect(await opened('auto')).toEqual({ libraries: ['/torch/cpu.so'], engine: ENGINE_CPU, device: 'cpu' })
        await expect(open({ device: 'cuda' })).rejects.toMatchObject({ code: 'SWAP_LIBTORCH_LOAD' })
      } finally {
        binding.openLibraries = openLibraries
      }
    })

    test('without the engine library', async () => {
      found('cpu')
      await rm(join(folder, ENGINE_CPU))
      const message = expect.stringContaining(ENGINE_CPU)
      await expect(open()).rejects.toMatchObject({ code: 'SWAP_ENGINE_MISSING', message })
      expect(binding.engines).toEqual([])
    })
  })

  test('stops at the first thing that is wrong, in this order', async () => {
    const asked: string[] = []
    const fail = (name: string) => {
      asked.push(name)
      throw new SwapError(`SWAP_TEST_${name.toUpperCase()}`, name)
    }
    vi.stubEnv('SWAP_ENGINE_LIBRARY', '')
    const broken: OpenParts = {
      readLayout: async () => fail('model'),
      findLibtorch: async () => fail('libtorch'),
      loadAddon: () => fail('addon'),
      addonFolder: () => fail('folder'),
      hasGpuDriver: () => false,
    }
    await expect(openWith(broken, { device: 'tpu' }, {})).rejects.toMatchObject({ code: 'SWAP_OPTION_INVALID' })
    expect(asked).toEqual([])
    await expect(openWith(broken, {}, {})).rejects.toMatchObject({ code: 'SWAP_TEST_MODEL' })
    broken.readLayout = parts.readLayout
    await expect(openWith(broken, {}, {})).rejects.toMatchObject({ code: 'SWAP_TEST_LIBTORCH' })
    vi.stubEnv('SWAP_ENGINE_LIBRARY', process.execPath)
    await expect(openWith(broken, {}, {})).rejects.toMatchObject({ code: 'SWAP_TEST_ADDON' })
    expect(asked).toEqual(['model', 'libtorch', 'addon'])
  })

  test('reports bytes while it loads', async () => {
    binding.onLoad = (call) => {
      for (const done of [0, 5, 10]) {
        call.emit({ ...PROGRESS, phase: 'load', done, total: 10 })
        call.emit({ ...PROGRESS, phase: 'prepare', done, total: 10 })
      }
      call.resolve(ENGINE_INFO)
    }
    const seen: unknown[] = []
    await open({ onProgress: (progress) => void seen.push(progress) })
    expect(seen).toEqual([0, 5, 10].map((done) => ({ phase: 'load', done, total: 10 })))
  })

  test('an error thrown by onProgress ends it, and the engine is closed', async () => {
    const error = new Error('mine')
    binding.onLoad = (call) => call.emit({ ...PROGRESS, phase: 'load', done: 1, total: 10 })
    const opening = open({
      onProgress: () => {
        throw error
      },
    })
    await expect(opening).rejects.toBe(error)
    expect(engine()).toMatchObject({ closed: 1 })
  })

  test('that fails closes the engine, and the error is a SwapError with the stack of the call', async () => {
    const native = nativeError('SWAP_MEMORY_FULL', 'no memory')
    binding.onLoad = (call) => call.reject(native)
    const error = await open().catch((e: unknown) => e)
    expect(error).toBeInstanceOf(SwapError)
    expect(error).toMatchObject({ code: 'SWAP_MEMORY_FULL', message: 'no memory', hint: 'do something', cause: native })
    expect((error as Error).stack).toContain('--- called from ---')
    expect(engine().closed).toBe(1)
  })

  test('a tokenizer that turns out to be broken while weights are read ends the reading', async () => {
    binding.onLoad = () => {}
    const error = new SwapError('SWAP_TOKENIZER_FILE', 'no tokenizer')
    parts.readLayout = async () => ({ ...layoutOf(mini), rest: async () => Promise.reject(error) })
    await expect(open()).rejects.toMatchObject({ code: 'SWAP_TOKENIZER_FILE', message: 'no tokenizer' })
    expect(engine().loads[0]?.cancelled).toBe(true)
    expect(engine().closed).toBe(1)
  })

  describe('waits for the tokenizers when the weights are not to be had', () => {
    const late = new SwapError('SWAP_TOKENIZER_FILE', 'too late')
    /** Opens, lets the weights fail or be cancelled, then the tokenizers end in some way; gives what open() rejects with. */
    const ended = async (fail: (controller: AbortController) => void, end: 'well' | 'badly') => {
      binding.onLoad = () => {}
      let finish = (): void => {}
      const { rest, ...layout } = layoutOf(mini)
      const waiting = new Promise<void>((resolve) => {
        finish = resolve
      })
      parts.readLayout = async () => ({
        ...layout,
        rest: () => waiting.then(() => (end === 'well' ? rest() : Promise.reject(late))),
      })
      const controller = new AbortController()
      let settled = false
      const opening = open({}, { signal: controller.signal }).then(
        () => 'opened',
        (error: unknown) => {
          settled = true
          return error
        },
      )
      await until(() => binding.engines[0]?.loads.length)
      fail(controller)
      await turn()
      await turn()
      expect(settled).toBe(false)
      expect(engine().closed).toBe(0)
      finish()
      const error = await opening
      expect(engine().closed).toBe(1)
      return error
    }
    const native = nativeError('SWAP_MEMORY_FULL', 'no memory')

    test.each(['well', 'badly'] as const)('they end %s: what failed first is thrown', async (end) => {
      const error = await ended(() => engine().loads[0]!.reject(native), end)
      expect(error).toMatchObject({ code: 'SWAP_MEMORY_FULL', cause: native })
    })

    test.each(['well', 'badly'] as const)('they end %s: a cancel is thrown before what failed', async (end) => {
      expect(await ended((controller) => controller.abort('enough'), end)).toBe('enough')
      expect(engine().loads[0]?.cancelled).toBe(true)
      const failed = (controller: AbortController) => {
        engine().loads[0]!.reject(native)
        setImmediate(() => controller.abort('enough'))
      }
      binding.engines.length = 0
      expect(await ended(failed, end)).toBe('enough')
    })
  })

  test('that is cancelled rejects with the very reason, and closes the engine', async () => {
    binding.onLoad = () => {}
    const controller = new AbortController()
    const opening = open({}, { signal: controller.signal })
    await until(() => binding.engines[0]?.loads.length)
    const reason = new Error('enough')
    controller.abort(reason)
    await expect(opening).rejects.toBe(reason)
    expect(engine().loads[0]?.cancelled).toBe(true)
    expect(engine().closed).toBe(1)
  })

  test.each(['cancelled', 'failed'] as const)('%s while the libraries are opened: no engine is made', async (end) => {
    let opened = (): void => {}
    const { openLibraries } = binding
    binding.openLibraries = () => new Promise((resolve) => (opened = resolve))
    const error = new SwapError('SWAP_TOKENIZER_FILE', 'no tokenizer')
    const { rest, ...layout } = layoutOf(mini)
    parts.readLayout = async () => ({ ...layout, rest: end === 'failed' ? () => Promise.reject(error) : rest })
    const controller = new AbortController()
    const opening = open({}, { signal: controller.signal })
    opening.catch(() => {})
    await turn()
    if (end === 'cancelled') controller.abort('enough')
    await turn()
    opened()
    await expect(opening).rejects.toBe(end === 'cancelled' ? 'enough' : error)
    expect(binding.engines).toEqual([])
    binding.openLibraries = openLibraries
  })

  test('cancelled before: nothing is touched', async () => {
    await expect(open({}, { signal: AbortSignal.abort('no') })).rejects.toBe('no')
    expect(binding.engines).toEqual([])
  })

  test('cancelled with the last byte: the engine is closed', async () => {
    const controller = new AbortController()
    binding.onLoad = (call) => {
      call.resolve(ENGINE_INFO)
      controller.abort('late')
    }
    await expect(open({}, { signal: controller.signal })).rejects.toBe('late')
    expect(engine().closed).toBe(1)
  })

  test('new Personalizer() says what to call', () => {
    const Constructor = Personalizer as unknown as new () => Personalizer
    expect(() => new Constructor()).toThrow('Personalizer.open()')
  })
})

describe('close', () => {
  test('is idempotent, closes the engine once, and later calls reject', async () => {
    const personalizer = await open()
    await Promise.all([personalizer.close(), personalizer.close()])
    await personalizer[Symbol.asyncDispose]()
    expect(engine().closed).toBe(1)
    expect(personalizer.info.model).toBe('mini')
    const learning = personalizer.learn({ image: PHOTO, class: 'person' })
    await expect(learning).rejects.toBeInstanceOf(DisposedError)
    await expect(learning).rejects.toMatchObject({ code: 'SWAP_DISPOSED' })
    await expect(personalizer.generate({ prompt: 'x' })).rejects.toBeInstanceOf(DisposedError)
  })

  test('running and waiting jobs reject with a DisposedError, and close waits for them', async () => {
    const personalizer = await open()
    const generating = personalizer.generate({ prompt: 'a dog' })
    await until(() => engine().generates.length)
    const learning = personalizer.learn({ image: PHOTO, class: 'person' })
    let ended = 0
    for (const job of [generating, learning]) job.finally(() => ended++).catch(() => {})
    await personalizer.close()
    await turn()
    expect(ended).toBe(2)
    await expect(generating).rejects.toBeInstanceOf(DisposedError)
    await expect(learning).rejects.toBeInstanceOf(DisposedError)
    expect(engine().generates[0]?.cancelled).toBe(true)
    expect(engine().learns).toEqual([])
  })

  test('a bad second argument rejects the job, and never throws', async () => {
    const personalizer = await open()
    const job = personalizer.generate({ prompt: 'x' }, { signal: 'stop' as unknown as AbortSignal })
    await expect(job).rejects.toMatchObject({ code: 'SWAP_OPTION_INVALID' })
    await personalizer.close()
  })
})
