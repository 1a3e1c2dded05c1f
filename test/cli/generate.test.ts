import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { readModel } from '../../lib/model/index.ts'
import { controlSpecFor, writeControl } from '../model/control_kit.ts'
import { cli, execute, photo, swap, temporary } from './kit.ts'

let subjects: string
let cwd: string

beforeAll(async () => {
  subjects = temporary()
  for (const name of ['alice', 'bo'])
    await swap(['learn', photo, '--class', 'person', '--steps', '3', '--name', name], { cwd: subjects })
})

beforeEach(() => {
  cwd = temporary()
})

const generate = (...args: string[]) => swap(['generate', ...args], { cwd })
const subject = (name: string) => join(subjects, `${name}.safetensors`)

describe('swap generate', () => {
  it('draws one picture into a folder, without a sheet', async () => {
    const { code, stdout } = await generate(
      'a photo of <alice>',
      '--subject',
      subject('alice'),
      '--out',
      'out',
      '--seed',
      '5',
    )
    expect(code).toBe(0)
    expect(stdout).toBe('out/0001-seed5.png\n')
    expect(readdirSync(join(cwd, 'out'))).toEqual(['0001-seed5.png'])
    const { comments } = await sharp(join(cwd, 'out/0001-seed5.png')).metadata()
    expect(comments!.find(({ keyword }) => keyword === 'parameters')!.text).toMatch(
      /^a photo of <alice>\nSteps: 30, .*Seed: 5,/,
    )
  })

  it('draws several with a contact sheet, and goes on counting without overwriting', async () => {
    await generate('a person', '--out', 'out', '--count', '3')
    const first = readFileSync(join(cwd, 'out/contact-sheet.png'))
    await generate('a dog', '--out', 'out', '--count', '2', '--format', 'webp')
    expect(readdirSync(join(cwd, 'out')).sort()).toEqual([
      '0001-seed0.png',
      '0002-seed1.png',
      '0003-seed2.png',
      '0004-seed0.webp',
      '0005-seed1.webp',
      'contact-sheet-2.png',
      'contact-sheet.png',
    ])
    expect(readFileSync(join(cwd, 'out/contact-sheet.png')).equals(first)).toBe(true)
    const { width, height } = await sharp(first).metadata()
    expect(width).toBeGreaterThan(3 * 128)
    expect(height).toBeGreaterThan(128)
    await generate('a cat', '--out', 'bare', '--count', '2', '--no-sheet')
    expect(readdirSync(join(cwd, 'bare'))).toEqual(['0001-seed0.png', '0002-seed1.png'])
  })

  it('takes several subjects', async () => {
    const both = ['--subject', subject('alice'), '--subject', subject('bo')]
    expect((await generate('<alice> and <bo>', ...both, '--out', 'two.jpg')).code).toBe(0)
    expect((await sharp(join(cwd, 'two.jpg')).metadata()).format).toBe('jpeg')
  })

  it('reads the prompt from standard input and writes the picture to standard output', async () => {
    const { code, bytes, stderr } = await swap(['generate', '-', '--out', '-', '--seed', '4'], {
      cwd,
      input: 'a person\n',
    })
    expect(code).toBe(0)
    expect(stderr).toContain('1 picture in')
    const { format, comments } = await sharp(bytes).metadata()
    expect(format).toBe('png')
    expect(comments!.find(({ keyword }) => keyword === 'parameters')!.text).toMatch(/^a person\n/)
    await generate('a person', '--out', 'file.png', '--seed', '4')
    expect(readFileSync(join(cwd, 'file.png')).equals(bytes)).toBe(true)
    const json = await generate('a person', '--out', '-', '--json')
    expect(json.stderr).toContain('{"type":"result","path":"-","seed":0,')
  })

  it('hands its options on', async () => {
    const options = ['--steps', '4', '--guidance-scale', '3', '--scheduler', 'euler', '--negative-prompt', 'snow']
    await generate('a person', ...options, '--width', '64', '--height', '96', '--out', 'a.png')
    const { width, height, comments } = await sharp(join(cwd, 'a.png')).metadata()
    expect([width, height]).toEqual([64, 96])
    expect(JSON.parse(comments!.find(({ keyword }) => keyword === 'swap')!.text)).toMatchObject({
      steps: 4,
      guidanceScale: 3,
      scheduler: 'euler',
      negativePrompt: 'snow',
    })
  })

  it('tells a program where the pictures lie', async () => {
    const { events, stderr } = await generate('a person', '--count', '2', '--out', 'out', '--json')
    expect(stderr).toBe('')
    expect(events.filter(({ type }) => type === 'result')).toEqual([
      { type: 'result', path: 'out/0001-seed0.png', seed: 0, width: 128, height: 128 },
      { type: 'result', path: 'out/0002-seed1.png', seed: 1, width: 128, height: 128 },
      { type: 'result', path: 'out/contact-sheet.png', sheet: true },
    ])
    expect(events.some(({ type, task }) => type === 'progress' && task === 'drawing')).toBe(true)
  })

  it('does not overwrite a file unless told to', async () => {
    writeFileSync(join(cwd, 'a.png'), 'mine')
    const { code, stderr } = await generate('a person', '--out', 'a.png')
    expect(code).toBe(1)
    expect(stderr).toContain('SWAP_FILE_EXISTS')
    expect(readFileSync(join(cwd, 'a.png'), 'utf8')).toBe('mine')
    expect((await generate('a person', '--out', 'a.png', '--force')).code).toBe(0)
  })

  it.each([
    ['a name that no subject has', ['<carl> at sea'], 'SWAP_PROMPT_UNKNOWN_SUBJECT'],
    ['a subject that is missing', ['x', '--subject', 'no.safetensors'], 'SWAP_FILE_NOT_FOUND'],
    ['a subject that is a picture', ['x', '--subject', photo], 'SWAP_SUBJECT_INVALID'],
    ['a folder where a file is', ['x', '--out', 'file'], 'SWAP_FILE'],
    ['a failure on the way', ['x', '--seed', '9003', '--out', 'a.png'], 'SWAP_MEMORY_DEVICE'],
  ])('fails with 1 and leaves nothing: %s', async (_, args, error) => {
    writeFileSync(join(cwd, 'file'), '')
    const { code, stdout, stderr } = await generate(...args)
    expect(code).toBe(1)
    expect(stdout).toBe('')
    expect(stderr).toContain(`[${error}`)
    expect(readdirSync(cwd)).toEqual(['file'])
  })

  it.each([
    ['another format', ['x', '--out', 'a.gif'], '--out "a.gif" ends in .gif'],
    ['no prompt on standard input', ['-'], 'standard input has no prompt'],
    ['two things from standard input', ['-', '--image', '-'], 'standard input cannot be'],
    ['a mask alone', ['x', '--mask', photo], 'image'],
    ['no strength', ['x', '--image', photo, '--strength', '0'], 'above 0'],
  ])('fails with 2 and leaves nothing: %s', async (_, args, says) => {
    const { code, stdout, stderr } = await generate(...args)
    expect(code).toBe(2)
    expect(stdout).toBe('')
    expect(stderr).toContain(says)
    expect(readdirSync(cwd)).toEqual([])
  })

  it('begins from a picture, which may come from standard input', async () => {
    const { code } = await swap(['generate', 'a person', '--image', '-', '--strength', '0.5', '--out', 'a.png'], {
      cwd,
      input: readFileSync(photo),
    })
    expect(code).toBe(0)
    const { comments, width } = await sharp(join(cwd, 'a.png')).metadata()
    expect(width).toBe(128)
    expect(JSON.parse(comments!.find(({ keyword }) => keyword === 'swap')!.text)).toMatchObject({ strength: 0.5 })
  })

  it('draws like a picture that was drawn before', async () => {
    const options = ['--steps', '3', '--seed', '8', '--width', '64', '--no-isolate', '--prompt-weights']
    options.push('--guidance-rescale', '0.5')
    await generate('a (<alice>:1.2)', '--subject', subject('alice'), ...options, '--out', 'a.png')
    const { code, stderr } = await generate('--like', 'a.png', '--subject', subject('alice'), '--out', 'b.png')
    expect(code).toBe(0)
    expect(stderr).not.toContain('warning')
    expect(readFileSync(join(cwd, 'b.png')).equals(readFileSync(join(cwd, 'a.png')))).toBe(true)
    const without = await generate('--like', 'a.png', '--out', 'c.png')
    expect(without.stderr).toContain('SWAP_PROMPT_UNKNOWN_SUBJECT')
    const other = await generate('--like', photo, '--out', 'c.png')
    expect(other.stderr).toContain('SWAP_IMAGE_PARAMETERS')
  })

  it('warns of an unused subject before it draws', async () => {
    const { events } = await generate('a person', '--subject', subject('alice'), '--out', 'out', '--json')
    const types = events.map(({ type, task }) => (type === 'progress' ? task : type))
    expect(events.filter(({ type }) => type === 'warning')).toMatchObject([
      { message: expect.stringContaining('alice') },
    ])
    expect(types.indexOf('warning')).toBeLessThan(types.indexOf('drawing'))
  })

  it('ends with 130 on Ctrl-C and leaves no picture', async () => {
    mkdirSync(join(cwd, 'out'))
    let sent = false
    const { code, events } = await swap(['generate', 'x', '--out', 'out', '--json'], {
      cwd,
      env: { SWAP_FAKE_STEP_MS: '50' },
      onStdout: (stdout, child) => {
        if (sent || !stdout.includes('drawing')) return
        sent = true
        child.kill('SIGINT')
      },
    })
    expect(code).toBe(130)
    expect(events.at(-1)).toMatchObject({ type: 'error', code: 'SWAP_CANCELLED' })
    expect(readdirSync(join(cwd, 'out'))).toEqual([])
  })

  it.skipIf(process.platform !== 'linux')('says in a sentence that its output cannot be written', async () => {
    const command = `"${process.execPath}" "${cli}" generate x --out full.png > /dev/full`
    const { code, stderr } = await execute('/bin/sh', ['-c', command], { cwd })
    expect(code).toBe(1)
    expect(stderr).toContain('error: cannot write "standard output": the disk is full [SWAP_FILE_DISK_FULL]')
    expect(stderr).not.toContain('    at ')
  })

  it('ends quietly when the reader of its output goes away', async () => {
    const { stderr } = await swap(['generate', 'x', '--out', 'out', '--json'], {
      cwd,
      env: { SWAP_FAKE_STEP_MS: '5' },
      onStdout: (_, child) => child.stdout!.destroy(),
    })
    expect(stderr).toBe('')
    expect(existsSync(join(cwd, 'out'))).toBe(true)
  })
})

describe('swap generate --control', () => {
  it('draws with ControlNets, and writes them into the file', async () => {
    const net = writeControl(join(cwd, 'a net, of mine'), controlSpecFor((await readModel('mini')).spec))
    const words = (...more: string[]) => ['--control', [`model=${net}`, `image=${photo}`, ...more].join(',')]
    const { code } = await swap(
      ['generate', 'a dog', ...words('scale=0.5', 'start=0.2', 'end=0.9'), ...words(), '--out', 'a.png', '--json'],
      { cwd },
    )
    expect(code).toBe(0)
    const { comments } = await sharp(join(cwd, 'a.png')).metadata()
    const { control } = JSON.parse(comments!.find(({ keyword }) => keyword === 'swap')!.text)
    expect(control).toMatchObject([
      { model: 'a net, of mine', scale: 0.5, start: 0.2, end: 0.9 },
      { model: 'a net, of mine', scale: 1, start: 0, end: 1 },
    ])
  })

  it.each([
    'model=a',
    'image=a.png',
    'model=a,image=',
    'model=a,image=b,scale=much',
    'model=a,image=b,weight=1',
    'model=a,image=b,model=c',
    'a.safetensors',
  ])('refuses %s', async (words) => {
    const { code, stderr } = await generate('a dog', '--control', words)
    expect(code).toBe(2)
    expect(stderr).toContain('--control')
    expect(readdirSync(cwd)).toEqual([])
  })
})
