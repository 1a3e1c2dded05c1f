import { PassThrough } from 'node:stream'
import { afterEach, describe, expect, it, vi } from 'vitest'
import { commandLine, crop, levels, number } from '../../lib/cli/args.ts'
import { describeError, duration, Output, timeLeft } from '../../lib/cli/output.ts'
import { run } from '../../lib/cli/run.ts'
import { SwapError } from '../../lib/errors.ts'

function stream(): { stream: NodeJS.WriteStream; text(): string } {
  const through = new PassThrough()
  let written = ''
  through.on('data', (chunk: Buffer) => {
    written += chunk.toString()
  })
  return { stream: through as unknown as NodeJS.WriteStream, text: () => written }
}

describe('arguments', () => {
  it('are numbers, lists and squares', () => {
    expect([number('3'), number('1e-4'), number('-2')]).toEqual([3, 1e-4, -2])
    expect(levels('1,2')).toEqual([1, 2])
    expect(levels('all')).toBe('all')
    expect(crop('1,2,3')).toEqual({ left: 1, top: 2, size: 3 })
    expect(crop('center')).toBe('center')
    for (const bad of ['', ' ', 'x', '1x', 'NaN', 'Infinity']) expect(() => number(bad)).toThrow('number')
    for (const bad of ['1,2', '1,2,3,4', 'left']) expect(() => crop(bad)).toThrow()
  })

  it('are written again with other values, as a shell reads them', () => {
    const argv = ['learn', "it's me.jpg", '--resume', 'old', '--out=a b', '--resume=old', '--json', '$HOME']
    const again = `swap learn 'it'\\''s me.jpg' '--out=a b' --json '$HOME' --resume 'new file'`
    vi.stubEnv('npm_command', undefined)
    expect(commandLine(argv, { '--resume': 'new file' })).toBe(again)
    vi.stubEnv('npm_command', 'exec')
    expect(commandLine(argv, { '--resume': 'new file' })).toBe(`npx ${again}`)
    vi.unstubAllEnvs()
  })
})

describe('durations', () => {
  it.each([
    [0.04, '0.0 s'],
    [2.53, '2.5 s'],
    [9.96, '10 s'],
    [59.4, '59 s'],
    [75, '1 min 15 s'],
    [3600 * 2 + 61, '2 h 1 min'],
  ])('%d s is %s', (seconds, text) => {
    expect(duration(seconds)).toBe(text)
  })

  it('are left out where they are not known', () => {
    expect([timeLeft(-1), timeLeft(3.2), timeLeft(90)]).toEqual(['', ' · 3 s left', ' · 1 min 30 s left'])
  })
})

describe('output', () => {
  it('says errors with code and hint, for people and for programs', () => {
    const error = new SwapError('SWAP_FILE_EXISTS', 'it is there', { hint: 'move it' })
    const [out, err] = [stream(), stream()]
    new Output({ stdout: out.stream, stderr: err.stream }).error(error)
    expect(out.text()).toBe('')
    expect(err.text()).toBe('error: it is there [SWAP_FILE_EXISTS]\nhint: move it\n')
    const json = stream()
    new Output({ json: true, stdout: json.stream, stderr: err.stream }).error(error)
    expect(JSON.parse(json.text())).toEqual({
      type: 'error',
      code: 'SWAP_FILE_EXISTS',
      message: 'it is there',
      hint: 'move it',
    })
  })

  it('describes whatever is thrown', () => {
    expect(describeError('text')).toEqual({ message: 'text' })
    expect(describeError(new Error('plain'))).toEqual({ message: 'plain' })
    expect(describeError(Object.assign(new Error('native'), { code: 'SWAP_X', hint: 'h' }))).toEqual({
      code: 'SWAP_X',
      message: 'native',
      hint: 'h',
    })
  })

  it('tells programs of bytes by the hundredth, not by the chunk', () => {
    const out = stream()
    const output = new Output({ json: true, stdout: out.stream })
    for (let done = 0; done <= 100e6; done += 64_000) output.progress('download', { done, total: 100e6 })
    const lines = out.text().trim().split('\n')
    expect(lines.length).toBeGreaterThan(90)
    expect(lines.length).toBeLessThanOrEqual(101)
  })
})

describe('running a command', () => {
  afterEach(() => {
    vi.restoreAllMocks()
    process.exitCode = undefined
  })

  /** What the process would have exited with. */
  async function outcome(command: Parameters<typeof run>[1]): Promise<{ code: unknown; text: string }> {
    const err = stream()
    await run({ stderr: err.stream }, command)
    const { exitCode } = process
    process.exitCode = undefined
    return { code: exitCode, text: err.text() }
  }

  it('fails with 1, or 2 where an option was wrong', async () => {
    const failing = (code: `SWAP_${string}`) => outcome(() => Promise.reject(new SwapError(code, 'no')))
    expect((await failing('SWAP_IMAGE_DECODE')).code).toBe(1)
    expect((await failing('SWAP_OPTION_INVALID')).code).toBe(2)
    expect((await outcome(async () => {})).code).toBeUndefined()
  })

  it('aborts at the first Ctrl-C and exits at once at the second', async () => {
    const exit = vi.spyOn(process, 'exit').mockImplementation(() => undefined as never)
    const { code } = await outcome(async ({ signal }) => {
      process.emit('SIGINT')
      expect(signal.aborted).toBe(true)
      expect(exit).not.toHaveBeenCalled()
      process.emit('SIGINT')
      expect(exit).toHaveBeenCalledWith(130)
      throw signal.reason
    })
    expect(code).toBe(130)
    const listeners = process.listenerCount('SIGINT')
    await outcome(async () => {})
    expect(process.listenerCount('SIGINT')).toBe(listeners)
  })
})
