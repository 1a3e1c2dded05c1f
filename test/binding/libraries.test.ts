import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { kit, run, thrown, workerSource } from './kit.ts'

const folder = mkdtempSync(join(tmpdir(), 'swap-libraries-'))
afterAll(() => rmSync(folder, { recursive: true }))

const open = (engine: string, libraries: string[] = []) =>
  thrown(() => kit.native().createEngine({ libraries, engine }))

/** A shared library of the system that is surely there: Node itself has it open. */
const libm = readFileSync('/proc/self/maps', 'utf8').match(/\/\S*\/libm[.-]\S*/)?.[0] ?? ''

describe('createEngine', () => {
  it('tells why a library cannot be opened, in the words of the system', () => {
    const missing = join(folder, 'libswap_engine_none.so')
    expect(open(missing)).toMatchObject({ code: 'SWAP_LIBTORCH_LOAD', hint: expect.stringContaining('swap doctor') })
    expect(open(missing).message).toContain(`cannot open the engine library ${missing}: `)
    expect(open(missing).message).toContain('No such file')

    const text = join(folder, 'libtext.so')
    writeFileSync(text, 'this is a text\n'.repeat(100))
    expect(open(text)).toMatchObject({ code: 'SWAP_LIBTORCH_LOAD', message: expect.stringContaining('ELF') })

    const torn = join(folder, 'libtorn.so')
    writeFileSync(torn, readFileSync(kit.fake).subarray(0, 3000))
    expect(open(torn)).toMatchObject({ code: 'SWAP_LIBTORCH_LOAD', message: expect.stringContaining('cut short') })

    expect(open(folder).code).toBe('SWAP_LIBTORCH_LOAD')
    expect(open(kit.fake, [missing])).toMatchObject({
      code: 'SWAP_LIBTORCH_LOAD',
      hint: expect.stringContaining('swap setup'),
    })
    expect(open(kit.fake, [missing]).message).toContain("LibTorch's library")
  })

  it('a library that is no engine, and one of another build, are refused', () => {
    expect(existsSync(libm)).toBe(true)
    expect(open(libm)).toMatchObject({ code: 'SWAP_ENGINE_ABI', message: expect.stringContaining('swap_engine') })
  })

  it('an engine with another interface number is refused', () => {
    const source = join(folder, 'other.c')
    writeFileSync(source, 'const int factory[16] = {4711}; const void* swap_engine(void) { return factory; }')
    const library = join(folder, 'libother.so')
    execFileSync('cc', ['-shared', '-fPIC', '-o', library, source])
    expect(open(library)).toMatchObject({ code: 'SWAP_ENGINE_ABI', message: expect.stringContaining('4711') })
  })

  it('paths must be absolute, options must be whole', () => {
    expect(open('libm.so.6')).toMatchObject({
      code: 'SWAP_ENGINE_ARGUMENT',
      message: 'options.engine must be an absolute path, got "libm.so.6"',
    })
    expect(open(kit.fake, ['libm.so.6']).message).toContain('options.libraries must hold absolute paths')
    const create = (options: unknown) => thrown(() => Reflect.apply(kit.native().createEngine, undefined, [options]))
    for (const options of [undefined, null, {}, { libraries: [] }, { libraries: 'x', engine: kit.fake }]) {
      expect(create(options).code).toBe('SWAP_ENGINE_ARGUMENT')
    }
    expect(create({ libraries: [1], engine: kit.fake }).message).toBe('options.libraries[0] must be a string, got 1')
  })

  it('one LibTorch a process, whatever name it goes by; a failed try leaves the choice open', async () => {
    const [one, two, link] = ['libone.so', 'libtwo.so', 'liblink.so'].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ]
    copyFileSync(libm, one)
    copyFileSync(libm, two)
    symlinkSync(one, link)
    const out = await run(
      `const open = (...libraries) => {
        try {
          kit.native().createEngine({ libraries, engine: kit.fake })
          return 'open'
        } catch (error) {
          return error.code
        }
      }
      const [one, two, link] = JSON.parse(${JSON.stringify(JSON.stringify([one, two, link]))})
      const maps = () => require('node:fs').readFileSync('/proc/self/maps', 'utf8')
      console.log(open(two, '/nowhere/lib.so'), maps().includes('libtwo'))
      console.log([open(one), open(link), open(two), open(one, two), open()].join())`,
    )
    expect(out).toBe('SWAP_LIBTORCH_LOAD false\nopen,open,SWAP_ENGINE_FLAVOUR,SWAP_ENGINE_FLAVOUR,open')
  })

  it('one LibTorch a process, also when the thread that opened it is gone', async () => {
    const [one, two] = ['libfirst.so', 'libsecond.so'].map((name) => join(folder, name)) as [string, string]
    copyFileSync(libm, one)
    copyFileSync(libm, two)
    const create = (library: string) =>
      `kit.native().createEngine({ libraries: [${JSON.stringify(library)}], engine: kit.fake })`
    const out = await run(`
      const { Worker } = require('node:worker_threads')
      const worker = new Worker(${JSON.stringify(workerSource(create(one)))}, { eval: true })
      await new Promise((resolve) => worker.once('exit', resolve))
      try {
        ${create(two)}
      } catch (error) {
        console.log(error.code)
      }
    `)
    expect(out).toBe('SWAP_ENGINE_FLAVOUR')
  })

  it('libraries are opened in another thread, and what goes wrong is said as createEngine says it', async () => {
    const native = kit.native()
    await native.openLibraries({ libraries: [], engine: kit.fake })
    expect(native.createEngine({ libraries: [], engine: kit.fake })).toBeDefined()
    const missing = join(folder, 'libswap_engine_none.so')
    const failed = native.openLibraries({ libraries: [], engine: missing })
    await expect(failed).rejects.toMatchObject({
      code: 'SWAP_LIBTORCH_LOAD',
      message: open(missing).message,
      hint: open(missing).hint,
    })
    const given = (options: unknown) => thrown(() => Reflect.apply(native.openLibraries, undefined, [options]))
    expect(given({ libraries: [] }).code).toBe('SWAP_ENGINE_ARGUMENT')
  })

  it('a process that ends while libraries are opened waits for them, and opens no more', async () => {
    const [slow, never] = [join(folder, 'libslow.so'), join(folder, 'libnever.so')]
    const source = join(folder, 'slow.c')
    writeFileSync(
      source,
      `#include <stdio.h>
      #include <unistd.h>
      __attribute__((constructor)) static void begin(void) { usleep(300000); puts("opened"); fflush(stdout); }`,
    )
    execFileSync('cc', ['-shared', '-fPIC', '-o', slow, source])
    copyFileSync(slow, never)
    const out = await run(`
      process.on('exit', () => console.log('exit'))
      const { openLibraries } = kit.native()
      for (const engine of ${JSON.stringify([slow, never])}) openLibraries({ libraries: [], engine }).catch(() => {})
      setTimeout(() => process.exit(), 100)
      await new Promise(() => {})
    `)
    expect(out).toBe('exit\nopened')
  })

  it('OpenMP is told to wait briefly while libraries are opened, unless it was told already, and children are not', async () => {
    const library = join(folder, 'libtold.so')
    const source = join(folder, 'told.c')
    writeFileSync(
      source,
      `#include <stdio.h>
      #include <stdlib.h>
      static const char* value(const char* name) { const char* found = getenv(name); return found ? found : "-"; }
      __attribute__((constructor)) static void begin(void) {
        printf("%s %s\\n", value("OMP_WAIT_POLICY"), value("GOMP_SPINCOUNT"));
        fflush(stdout);
      }`,
    )
    execFileSync('cc', ['-shared', '-fPIC', '-o', library, source])
    const told = (env: NodeJS.ProcessEnv) =>
      run(
        `await kit.native().openLibraries({ libraries: [], engine: ${JSON.stringify(library)} }).catch(() => {})
        const { OMP_WAIT_POLICY: policy = '-', GOMP_SPINCOUNT: spins = '-' } = process.env
        console.log(policy, spins)`,
        [],
        { OMP_WAIT_POLICY: undefined, GOMP_SPINCOUNT: undefined, ...env },
      )
    expect(await told({})).toMatch(/^PASSIVE [1-9]\d{2,3}\n- -$/)
    expect(await told({ GOMP_SPINCOUNT: '7' })).toBe('- 7\n- 7')
    expect(await told({ OMP_WAIT_POLICY: 'ACTIVE' })).toBe('ACTIVE -\nACTIVE -')
  })

  it('the addon tells its interface number', () => {
    const header = readFileSync(new URL('../../cpp/engine.h', import.meta.url), 'utf8')
    expect(kit.native().abi).toBe(Number(header.match(/kEngineAbi = (\d+)/)?.[1]))
  })
})
