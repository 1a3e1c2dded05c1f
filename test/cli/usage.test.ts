import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { packageRoot } from '../../lib/paths.ts'
import { photo, swap } from './kit.ts'

describe('swap', () => {
  it('says its version', async () => {
    const { version } = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string }
    expect(await swap(['--version'])).toMatchObject({ code: 0, stdout: `${version}\n`, stderr: '' })
  })

  it('says what it can do, when asked or when not told what to do', async () => {
    const asked = await swap(['--help'])
    expect(asked.code).toBe(0)
    for (const word of ['learn', 'generate', 'evaluate', 'setup', 'doctor', 'Examples', '130'])
      expect(asked.stdout).toContain(word)
    expect(asked.stdout).not.toContain('probe')
    const bare = await swap([])
    expect(bare.code).toBe(2)
    expect(bare.stderr).toContain('Usage: swap')
  })

  it.each(['learn', 'generate', 'evaluate', 'setup', 'doctor'])('%s has help with examples', async (command) => {
    const { code, stdout } = await swap([command, '--help'])
    expect(code).toBe(0)
    expect(stdout).toContain(`Usage: swap ${command}`)
    expect(stdout).toMatch(/Examples:\n {2}\$ .*swap /)
    expect(stdout).toContain('--json')
  })
})

describe('wrong usage ends with 2 and a sentence that names what is wrong', () => {
  it.each([
    [['bogus'], 'bogus'],
    [['learn', '--class', 'person'], "missing required argument 'photo'"],
    [['learn', photo], '--class'],
    [['learn', photo, '--class', 'person', '--bogus'], '--bogus'],
    [['learn', photo, '--class', 'person', '--steps', 'many'], 'many'],
    [['learn', photo, '--class', 'person', '--steps', '0'], 'steps'],
    [['learn', photo, '--class', 'person', '--stages', '11'], 'stages'],
    [['learn', photo, '--class', 'person', '--name', 'a b'], 'a b'],
    [['learn', photo, '--class', 'person', '--conditioning', 'both'], 'both'],
    [['learn', photo, '--class', 'person', '--crop', '1,2'], 'left,top,size'],
    [['learn', photo, '--class', 'person', '--out', photo], 'the photo itself'],
    [['generate'], "missing required argument 'prompt'"],
    [['generate', 'x', '--scheduler', 'heun'], 'heun'],
    [['generate', 'x', '--steps', '0'], 'steps'],
    [['generate', 'x', '--count', '2', '--out', 'a.png'], '--count 2'],
    [['generate', 'x', '--count', '2', '--out', '-'], '--count 2'],
    [['generate', 'x', '--device', 'tpu'], 'tpu'],
    [['generate', 'x', '--guidance-scale', '200'], '--guidance-scale must be a number from 0 to 100'],
    [['generate', 'x', '--width', '5'], '--width must be'],
    [['learn', photo, '--class', 'person', '--attention-weight', '-1'], '--attention-weight must be'],
    [['learn', photo, '--class', 'person', '--levels', '0,77'], '--levels'],
    [['learn', photo, '--class', 'person', '--template', 'x'], '--template must'],
    [['setup', '--from', 'nowhere'], 'nowhere'],
  ])('%j', async (args, part) => {
    // The same for people and for programs.
    const [text, json] = await Promise.all([swap(args), swap([...args, '--json'])])
    expect(text.stderr).toContain('error: ')
    expect(text.stderr).toContain(part)
    expect(text.stdout).toBe('')
    expect(text.code).toBe(2)
    expect(json.code).toBe(2)
    // Standard output is the picture's where --out is -.
    const { type, code, message } = JSON.parse((json.stdout || json.stderr).trim()) as Record<string, string>
    expect([type, code]).toEqual(['error', expect.stringMatching(/^SWAP_OPTION/)])
    expect(message).toContain(part)
  })
})
