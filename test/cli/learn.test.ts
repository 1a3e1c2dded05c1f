import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import sharp from 'sharp'
import { beforeEach, describe, expect, it } from 'vitest'
import { Subject } from '../../lib/index.ts'
import { execute, photo, swap, temporary } from './kit.ts'

let cwd: string
beforeEach(() => {
  cwd = temporary()
})

const learn = (...args: string[]) => swap(['learn', photo, '--class', 'person', '--steps', '20', ...args], { cwd })

describe('swap learn', () => {
  it('writes a subject, and says where it lies on standard output alone', async () => {
    const { code, stdout, stderr } = await learn('--name', 'alice', '--out', 'a.safetensors')
    expect(stderr).toContain('mini on cpu')
    expect(stdout).toMatch(/^a\.safetensors holds <alice> \(person\)/)
    expect(code).toBe(0)
    const subject = await Subject.load(join(cwd, 'a.safetensors'))
    expect(subject).toMatchObject({
      name: 'alice',
      classWord: 'person',
      stages: 5,
      metadata: { steps: 20, model: 'mini' },
    })
    expect(readdirSync(cwd)).toEqual(['a.safetensors'])
  })

  it('hands its options on', async () => {
    const options = ['--stages', '3', '--seed', '7', '--learning-rate', '0.002', '--attention-weight', '0.5']
    await learn(
      '--name',
      'bo',
      ...options,
      '--conditioning',
      'shared',
      '--template',
      'a drawing of {}',
      '--levels',
      '1',
    )
    const { metadata, stages } = await Subject.load(join(cwd, 'bo.safetensors'))
    expect(stages).toBe(3)
    expect(metadata).toMatchObject({
      seed: 7,
      learningRate: 0.002,
      attentionWeight: 0.5,
      conditioning: 'shared',
      template: 'a drawing of {}',
    })
  })

  it('tells a program every step, an object a line', async () => {
    const { events, stderr } = await learn('--json')
    expect(stderr).toBe('')
    const steps = events.filter(({ task }) => task === 'learning')
    expect(steps.map(({ step }) => step)).toEqual(Array.from({ length: 20 }, (_, k) => k + 1))
    expect(steps[0]).toMatchObject({ type: 'progress', steps: 20, stage: expect.any(Number), loss: expect.any(Number) })
    expect(events.at(-1)).toMatchObject({
      type: 'result',
      out: 'subject.safetensors',
      name: 'subject',
      class: 'person',
    })
  })

  it('tells a log file some of them', async () => {
    const { stderr } = await swap(['learn', photo, '--class', 'person', '--steps', '300'], { cwd })
    const lines = stderr.split('\n').filter((line) => line.startsWith('learning'))
    expect(lines.length).toBeGreaterThan(5)
    expect(lines.length).toBeLessThanOrEqual(11)
    expect(lines.at(-1)).toMatch(/^learning: 100 % · loss \d/)
    expect(stderr).not.toContain('\u001b')
  })

  it.runIf(process.platform === 'linux' && existsSync('/usr/bin/script'))('draws a bar on a terminal', async () => {
    const command = `${process.execPath} ${JSON.stringify(join(process.cwd(), 'dist/cli.cjs'))} learn ${JSON.stringify(photo)} --class person --steps 20`
    const { code, stdout } = await execute('script', ['-qec', command, '/dev/null'], { cwd, env: { TERM: 'xterm' } })
    expect(code).toBe(0)
    expect(stdout).toMatch(/learning .*█.*loss \d/)
    expect(stdout).toContain('subject.safetensors holds <subject>')
  })

  it('reads the photo from standard input and writes the subject to standard output', async () => {
    const { code, bytes, stderr } = await swap(['learn', '-', '--class', 'person', '--steps', '20', '--out', '-'], {
      cwd,
      input: readFileSync(photo),
    })
    expect(code).toBe(0)
    expect(stderr).toContain('standard output holds <subject>')
    await learn('--out', 'file.safetensors')
    expect(bytes.equals(readFileSync(join(cwd, 'file.safetensors')))).toBe(true)
  })

  it('warns once', async () => {
    writeFileSync(join(cwd, 'small.png'), await sharp(photo).resize(40).png().toBuffer())
    const { code, stderr } = await swap(['learn', 'small.png', '--class', 'person', '--steps', '20'], { cwd })
    expect(code).toBe(0)
    expect(stderr.match(/^warning: .*40 pixels/gm)).toHaveLength(1)
  })

  it('learns anew over a subject, but not over anything else', async () => {
    await learn('--out', 'a.safetensors')
    expect((await learn('--out', 'a.safetensors', '--seed', '3')).code).toBe(0)
    writeFileSync(join(cwd, 'notes.txt'), 'mine')
    const { code, stderr } = await learn('--out', 'notes.txt')
    expect(code).toBe(1)
    expect(stderr).toContain('SWAP_FILE_EXISTS')
    expect(readFileSync(join(cwd, 'notes.txt'), 'utf8')).toBe('mine')
    expect((await learn('--out', 'notes.txt', '--force')).code).toBe(0)
  })

  it.each([
    ['a missing photo', ['missing.png'], 'SWAP_IMAGE_NOT_FOUND'],
    ['a text as photo', ['text.png'], 'SWAP_IMAGE_DECODE'],
    ['a crop outside of it', [photo, '--crop', '100,100,100'], 'SWAP_IMAGE_CROP'],
    ['a folder that is missing', [photo, '--out', 'no/a.safetensors'], 'SWAP_FILE_NOT_FOUND'],
    ['an unknown model', [photo, '--model', 'no-model'], 'SWAP_MODEL'],
    ['a failure on the way', [photo, '--seed', '9003'], 'SWAP_MEMORY_DEVICE'],
    ['no resume file', [photo, '--resume', 'no.resume'], 'SWAP_FILE_NOT_FOUND'],
  ])('fails with 1, a sentence and a hint, and leaves nothing: %s', async (_, args, error) => {
    writeFileSync(join(cwd, 'text.png'), 'hello')
    const { code, stdout, stderr } = await swap(['learn', ...args, '--class', 'person', '--steps', '20'], { cwd })
    expect(code).toBe(1)
    expect(stdout).toBe('')
    expect(stderr).toMatch(/^error: .+ \[SWAP_/m)
    expect(stderr).toContain(`[${error}`)
    expect(stderr).not.toContain('    at ')
    expect(readdirSync(cwd)).toEqual(['text.png'])
  })
})

describe('Ctrl-C', () => {
  it('leaves a resume file and prints the command that goes on, to the same end', async () => {
    const folder = join(cwd, "it's mine")
    mkdirSync(folder)
    copyFileSync(photo, join(folder, 'me.png'))
    const args = ['learn', "it's mine/me.png", '--class', 'person', '--steps', '60', '--out', 'a.safetensors']
    let sent = false
    const interrupted = await swap([...args, '--json'], {
      cwd,
      env: { SWAP_FAKE_STEP_MS: '20' },
      onStdout: (stdout, child) => {
        if (sent || !stdout.includes('"step":3,')) return
        sent = true
        child.kill('SIGINT')
      },
    })
    expect(interrupted.code).toBe(130)
    expect(interrupted.events.at(-1)).toMatchObject({ type: 'error', code: 'SWAP_CANCELLED' })
    expect(existsSync(join(cwd, 'a.safetensors'))).toBe(false)
    const note = interrupted.events.find(({ command }) => command)!
    expect(note).toMatchObject({ type: 'note', resume: 'a.safetensors.resume', steps: 60 })

    // The printed command as a shell reads it.
    const shell = String(note.command).replace(
      /^(npx )?swap/,
      `"${process.execPath}" "${join(process.cwd(), 'dist/cli.cjs')}"`,
    )
    const resumed = await execute('/bin/sh', ['-c', shell], { cwd })
    expect(resumed.code).toBe(0)
    expect(resumed.events.find(({ task }) => task === 'learning')!.step).toBeGreaterThan(3)
    expect(existsSync(join(cwd, 'a.safetensors.resume'))).toBe(false)
    await swap([...args, '--out', 'straight.safetensors'], { cwd })
    const [one, other] = ['a', 'straight'].map((name) => readFileSync(join(cwd, `${name}.safetensors`)))
    expect(one!.equals(other!)).toBe(true)
  })
})
