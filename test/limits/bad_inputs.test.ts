/** Whatever is given to the package and its command, on the real engine. */
import { chmodSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { Personalizer, Subject } from '../../lib/index.ts'
import { readSafetensors, writeSafetensors } from '../../lib/model/safetensors.ts'
import { command, file, fullDisk, PHOTO, safetensors, sparse, subjectFile, temporary, withoutRights } from './kit.ts'
import {
  alice,
  at,
  describeRows,
  drawing,
  folder,
  personalizer,
  picture,
  type Row,
  resume,
  useEngine,
} from './table.ts'

useEngine()
const disk = fullDisk()
afterAll(() => disk?.remove())

const learn = (options: object) =>
  personalizer.learn({ image: PHOTO, class: 'person', steps: 1, batch: 1, checkpoint: at('a.resume'), ...options })
const generate = (options: object) => personalizer.generate(drawing(options))
const photo = (name: string, content: Uint8Array | string) => learn({ image: file(name, content) })
const subject = (bytes: Uint8Array | string) => Subject.load(file('alice.safetensors', bytes))
const swap = (...words: string[]) => command(folder, ...words)

/** A resume file whose parameters' first moments are all of one value. */
function moments(bytes: Buffer, value: number): Uint8Array {
  const { tensors, metadata } = readSafetensors(bytes)
  for (const { name, data } of tensors) if (name.startsWith('first_moment.')) data.fill(value)
  return writeSafetensors(tensors, metadata)
}
/** The black and the white picture, for masks. */
const grey = (value: number, width = 128, height = 128) => ({
  data: new Uint8Array(width * height * 3).fill(value),
  width,
  height,
})

const png = readFileSync(PHOTO)
const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'

const PICTURES: Row[] = [
  ['no such picture', 'SWAP_IMAGE_NOT_FOUND', () => learn({ image: at('a.png') })],
  ['a folder as a picture', 'SWAP_IMAGE_IS_DIRECTORY', () => learn({ image: folder })],
  ['a number as a picture', 'SWAP_OPTION_INVALID', () => learn({ image: 7 })],
  ['text named .png', 'SWAP_IMAGE_DECODE', () => photo('a.png', 'not a picture at all')],
  ['an empty picture', 'SWAP_IMAGE_EMPTY', () => photo('a.png', '')],
  ['a picture cut short', 'SWAP_IMAGE_DECODE', () => photo('a.png', png.subarray(0, png.length / 2))],
  ['a drawing in words', 'SWAP_IMAGE_FORMAT', () => photo('a.png', svg)],
  ['an endless device', 'SWAP_IMAGE_TOO_LARGE', () => learn({ image: '/dev/zero' })],
  [
    'a file of a gigabyte',
    'SWAP_IMAGE_TOO_LARGE',
    () => learn({ image: sparse(join(temporary(), 'a.png'), 2 ** 30, png) }),
  ],
  ['raw pixels too few', 'SWAP_IMAGE_RAW', () => learn({ image: { data: new Uint8Array(10), width: 2, height: 2 } })],
  ['raw pixels of no width', 'SWAP_IMAGE_RAW', () => learn({ image: { data: new Uint8Array(), width: 0, height: 2 } })],
  [
    'raw pixels by the billion',
    'SWAP_IMAGE_TOO_LARGE',
    () => learn({ image: { data: new Uint8Array(3), width: 1e6, height: 1e6 } }),
  ],
  ['a crop outside', 'SWAP_IMAGE_CROP', () => learn({ crop: { left: 100, top: 0, size: 64 } })],
  ['a crop of nothing', 'SWAP_OPTION_INVALID', () => learn({ crop: { left: 0, top: 0, size: 0 } })],
  ['a mask of another shape', 'SWAP_IMAGE_MASK', () => learn({ mask: grey(255, 64, 32) })],
  ['a mask all black', 'SWAP_IMAGE_MASK', () => learn({ mask: grey(0) })],
  ['a mask that is a truth', 'SWAP_OPTION_INVALID', () => learn({ mask: true })],
  [
    'a picture without the right to read it',
    'SWAP_IMAGE_PERMISSION',
    () => {
      const secret = file('a.png', png)
      chmodSync(secret, 0o000)
      return withoutRights(() => learn({ image: secret, checkpoint: undefined }))
    },
  ],
]

const LEARNING: Row[] = [
  ['no class', 'SWAP_OPTION_INVALID', () => learn({ class: undefined })],
  ['an unknown class', 'SWAP_PROMPT_UNKNOWN_CLASS', () => learn({ class: 'xqzvwk' })],
  ['a class of spaces', 'SWAP_OPTION_INVALID', () => learn({ class: '   ' })],
  ['no steps', 'SWAP_OPTION_INVALID', () => learn({ steps: 0 })],
  ['half a step', 'SWAP_OPTION_INVALID', () => learn({ steps: 1.5 })],
  ['a billion steps', 'SWAP_OPTION_INVALID', () => learn({ steps: 1e9 })],
  ['a learning rate of NaN', 'SWAP_OPTION_INVALID', () => learn({ learningRate: Number.NaN })],
  ['a learning rate below zero', 'SWAP_OPTION_INVALID', () => learn({ learningRate: -1e-4 })],
  ['a learning rate without end', 'SWAP_OPTION_INVALID', () => learn({ learningRate: Number.POSITIVE_INFINITY })],
  ['a batch of thousands', 'SWAP_OPTION_INVALID', () => learn({ batch: 4096 })],
  ['eleven stages', 'SWAP_OPTION_INVALID', () => learn({ stages: 11 })],
  ['a seed below zero', 'SWAP_OPTION_INVALID', () => learn({ seed: -1 })],
  ['a seed that no number holds', 'SWAP_OPTION_INVALID', () => learn({ seed: 2 ** 53 })],
  ['a weight of NaN', 'SWAP_OPTION_INVALID', () => learn({ attention: { weight: Number.NaN } })],
  ['a level without cross-attention', 'SWAP_OPTION_INVALID', () => learn({ attention: { levels: [0, 7] } })],
  ['a name with brackets', 'SWAP_OPTION_INVALID', () => learn({ name: '<alice>' })],
  ['a prompt without a placeholder', 'SWAP_OPTION_INVALID', () => learn({ templates: ['a photo'] })],
  ['a prompt of 300 words', 'SWAP_PROMPT_TOO_LONG', () => learn({ templates: [`${'a '.repeat(300)}{}`] })],
  ["another program's option", 'SWAP_OPTION_UNKNOWN', () => learn({ lr: 1e-4 })],
  ['options that are a text', 'SWAP_OPTION_INVALID', () => personalizer.learn('me.jpg' as never)],
  ['a resume file that is not there', 'SWAP_FILE_NOT_FOUND', () => learn({ resume: at('b.resume') })],
  ['a subject as a resume file', 'SWAP_RESUME_INVALID', () => learn({ resume: alice.toBuffer() })],
  ['a resume file cut short', 'SWAP_RESUME_INVALID', () => learn({ resume: resume.subarray(0, -9) })],
  [
    'a resume file with NaN',
    'SWAP_RESUME_INVALID',
    () => learn({ resume: Buffer.concat([resume.subarray(0, -4), Buffer.of(0, 0, 192, 127)]) }),
  ],
  [
    'a resume file whose next step leaves the numbers',
    'SWAP_NUMERIC_NAN',
    () => learn({ steps: 2, resume: moments(resume, 3e38), checkpoint: undefined }),
  ],
  ["another photo's resume file", 'SWAP_RESUME_MISMATCH', () => learn({ steps: 2, resume, image: grey(99) })],
  ["another class's resume file", 'SWAP_RESUME_MISMATCH', () => learn({ steps: 2, resume, class: 'dog' })],
  ["other stages' resume file", 'SWAP_RESUME_MISMATCH', () => learn({ steps: 2, resume, stages: 3 })],
  ['a photo as the place for checkpoints', 'SWAP_FILE_EXISTS', () => learn({ checkpoint: PHOTO })],
  ['checkpoints in no folder', 'SWAP_FILE_NOT_FOUND', () => learn({ checkpoint: at('nowhere/a.resume') })],
  ['a folder as the place for checkpoints', 'SWAP_FILE_IS_DIRECTORY', () => learn({ checkpoint: folder })],
]

const DRAWING: Row[] = [
  ['no prompt', 'SWAP_OPTION_INVALID', () => generate({ prompt: undefined })],
  ['a prompt of 1,300 words', 'SWAP_PROMPT_TOO_LONG', () => generate({ prompt: 'a dog '.repeat(650) })],
  ['a prompt of 10,000 words', 'SWAP_OPTION_INVALID', () => generate({ prompt: 'a dog '.repeat(5000) })],
  [
    'a negative prompt of 1,300 words',
    'SWAP_PROMPT_TOO_LONG',
    () => generate({ negativePrompt: 'a dog '.repeat(650) }),
  ],
  ...(
    [
      ['a bracket that is not closed', 'a (dog:1.2'],
      ['a bracket that closes nothing', 'a dog)'],
      ['brackets of two kinds', 'a (dog]'],
      ['a weight below zero', 'a (dog:-1)'],
      ['a weight of a million', 'a (dog:1e6)'],
      ['a weight of eleven', 'a (dog:11)'],
      ['a weight of two points', 'a (dog:1.2.3)'],
      ['weights that multiply to a thousand', '((a (dog:10):10):10)'],
    ] as const
  ).map(([what, prompt]): Row => [what, 'SWAP_PROMPT_WEIGHT', () => generate({ prompt, promptWeights: true })]),
  ['weights that are a text', 'SWAP_OPTION_INVALID', () => generate({ promptWeights: 'yes' })],
  [
    'a subject that was not given',
    'SWAP_PROMPT_UNKNOWN_SUBJECT',
    () => generate({ prompt: 'a photo of <bob>', subjects: [alice] }),
  ],
  ['a path as a subject', 'SWAP_OPTION_INVALID', () => generate({ subjects: ['alice.safetensors'] })],
  ['the same subject twice', 'SWAP_SUBJECT_DUPLICATE', () => generate({ subjects: [alice, alice] })],
  [
    "another base model's subject",
    'SWAP_SUBJECT_WIDTH',
    async () =>
      generate({ prompt: '<alice>', subjects: [await Subject.load(subjectFile({}, { shape: [1, 1, 768] }))] }),
  ],
  [
    "another tokenizer's subject",
    'SWAP_PROMPT_CLASS_TOKENS',
    async () =>
      generate({ prompt: '<alice>', subjects: [await Subject.load(subjectFile({}, { shape: [1, 3, 192] }))] }),
  ],
  [
    'a subject whose vectors are past all numbers',
    'SWAP_NUMERIC_NAN',
    async () => generate({ prompt: '<alice>', subjects: [await Subject.load(subjectFile({}, { fill: 3e38 }))] }),
  ],
  ['no steps', 'SWAP_OPTION_INVALID', () => generate({ steps: 0 })],
  ['a million steps', 'SWAP_OPTION_INVALID', () => generate({ steps: 1e6 })],
  ['a guidance of NaN', 'SWAP_OPTION_INVALID', () => generate({ guidanceScale: Number.NaN })],
  ['a guidance below zero', 'SWAP_OPTION_INVALID', () => generate({ guidanceScale: -1 })],
  ['a width of 100', 'SWAP_OPTION_INVALID', () => generate({ width: 100 })],
  ['a height of a million', 'SWAP_OPTION_INVALID', () => generate({ height: 1e6 })],
  ['no pictures', 'SWAP_OPTION_INVALID', () => generate({ count: 0 })],
  ['gigabytes of pictures', 'SWAP_OPTION_INVALID', () => generate({ count: 256, width: 2048, height: 2048 })],
  ['seeds past the last', 'SWAP_OPTION_INVALID', () => generate({ seed: Number.MAX_SAFE_INTEGER, count: 2 })],
  ['an unknown scheduler', 'SWAP_OPTION_INVALID', () => generate({ scheduler: 'ddpm' })],
  ["a scheduler's key", 'SWAP_OPTION_INVALID', () => generate({ scheduler: '__proto__' })],
  [
    'a closed personalizer',
    'SWAP_DISPOSED',
    async () => {
      const closed = await Personalizer.open({ dtype: 'float32' })
      await closed.close()
      await closed.generate(drawing())
    },
  ],
]

const begin = (options: object) =>
  personalizer.generate({ prompt: 'a person', image: PHOTO, width: 16, height: 16, steps: 4, ...options })

const BEGINNINGS: Row[] = [
  ['no such picture to begin from', 'SWAP_IMAGE_NOT_FOUND', () => begin({ image: at('a.png') })],
  ['a folder to begin from', 'SWAP_IMAGE_IS_DIRECTORY', () => begin({ image: folder })],
  ['a truth to begin from', 'SWAP_OPTION_INVALID', () => begin({ image: true })],
  ['nothing to begin from', 'SWAP_OPTION_INVALID', () => begin({ image: '' })],
  ['half a picture to begin from', 'SWAP_IMAGE_DECODE', () => begin({ image: png.subarray(0, png.length / 2) })],
  ['raw pixels too few to begin from', 'SWAP_IMAGE_RAW', () => begin({ image: { ...grey(9), width: 127 } })],
  ['a strength of 0', 'SWAP_OPTION_INVALID', () => begin({ strength: 0 })],
  ['a strength below 0', 'SWAP_OPTION_INVALID', () => begin({ strength: -0.5 })],
  ['a strength above 1', 'SWAP_OPTION_INVALID', () => begin({ strength: 1.01 })],
  ['a strength of NaN', 'SWAP_OPTION_INVALID', () => begin({ strength: Number.NaN })],
  ['a strength in words', 'SWAP_OPTION_INVALID', () => begin({ strength: 'high' })],
  ['a strength that leaves no step', 'SWAP_OPTION_INVALID', () => begin({ strength: 0.2 })],
  ['a strength without a picture', 'SWAP_OPTION_INVALID', () => begin({ image: undefined, strength: 0.5 })],
  ['a mask without a picture', 'SWAP_OPTION_INVALID', () => begin({ image: undefined, mask: grey(255) })],
  ['a mask of another shape', 'SWAP_IMAGE_MASK', () => begin({ mask: grey(255, 128, 96) })],
  ['a mask all black', 'SWAP_IMAGE_MASK', () => begin({ mask: grey(0) })],
  ['a mask all dark grey', 'SWAP_IMAGE_MASK', () => begin({ mask: grey(100) })],
  ['no such mask', 'SWAP_IMAGE_NOT_FOUND', () => begin({ mask: at('mask.png') })],
  ['a drawing in words as a mask', 'SWAP_IMAGE_FORMAT', () => begin({ mask: Buffer.from(svg) })],
  ['a width between latents', 'SWAP_OPTION_INVALID', () => begin({ width: 100 })],
  [
    'a height that the shape would make a giant',
    'SWAP_OPTION_INVALID',
    () => begin({ image: grey(9, 16, 1600), width: 128, height: undefined }),
  ],
  ['a rescale above 1', 'SWAP_OPTION_INVALID', () => begin({ guidanceRescale: 1.5 })],
  ['isolation that is a word', 'SWAP_OPTION_INVALID', () => begin({ isolate: 'yes' as never })],
  ['a rescale of NaN', 'SWAP_OPTION_INVALID', () => begin({ guidanceRescale: Number.NaN })],
  ['more steps than LCM chooses from', 'SWAP_SCHEDULER_STEPS', () => begin({ scheduler: 'lcm', steps: 51 })],
  ["another program's name for it", 'SWAP_OPTION_UNKNOWN', () => begin({ init_image: PHOTO })],
]

const FILES: Row[] = [
  ['no such subject', 'SWAP_FILE_NOT_FOUND', () => Subject.load(at('a.safetensors'))],
  ['a folder as a subject', 'SWAP_FILE_IS_DIRECTORY', () => Subject.load(folder)],
  ['a number as a subject', 'SWAP_OPTION_INVALID', () => Subject.load(7 as never)],
  ['an empty subject', 'SWAP_SUBJECT_INVALID', () => subject('')],
  ['a picture as a subject', 'SWAP_SUBJECT_INVALID', () => subject(png)],
  ['a subject cut short', 'SWAP_SUBJECT_INVALID', () => subject(alice.toBuffer().subarray(0, -1))],
  [
    'a subject of no tensors',
    'SWAP_SUBJECT_INVALID',
    () => subject(safetensors({ __metadata__: { name: 'a', class: 'b' } })),
  ],
  ['a subject with NaN', 'SWAP_SUBJECT_INVALID', () => subject(subjectFile({}, { fill: Number.NaN }))],
  ['a subject of twelve stages', 'SWAP_SUBJECT_INVALID', () => subject(subjectFile({}, { shape: [12, 1, 192] }))],
  ['a subject of whole numbers', 'SWAP_SUBJECT_INVALID', () => subject(subjectFile({}, { dtype: 'I32' }))],
  ['a subject of a later version', 'SWAP_SUBJECT_INVALID', () => subject(subjectFile({ version: '2' }))],
  ['a subject named like a path', 'SWAP_SUBJECT_INVALID', () => subject(subjectFile({ name: '../../etc/passwd' }))],
  [
    'a subject that writes on terminals',
    'SWAP_SUBJECT_INVALID',
    () => subject(subjectFile({ class: '\u001b[2Jperson' })),
  ],
  ['a subject of 65 MB', 'SWAP_SUBJECT_TOO_LARGE', () => Subject.load(sparse(join(temporary(), 'a'), 65 * 2 ** 20))],
  ['saved into no folder', 'SWAP_FILE_NOT_FOUND', () => alice.save(at('nowhere/a.safetensors'))],
  ['saved below a file', 'SWAP_FILE_NOT_FOUND', () => alice.save(join(PHOTO, 'a.safetensors'))],
  ['saved over a folder', 'SWAP_FILE_IS_DIRECTORY', () => alice.save(folder)],
  ['saved under a name too long', 'SWAP_FILE_NAME', () => alice.save(at('a'.repeat(300)))],
  ['saved nowhere', 'SWAP_OPTION_INVALID', () => alice.save('')],
  ['a picture saved as .bmp', 'SWAP_IMAGE_FORMAT', () => picture.save(at('a.bmp'))],
  ['a picture as a format unheard of', 'SWAP_IMAGE_FORMAT', () => picture.toBuffer('tga' as never)],
  [
    'saved without the right to write',
    'SWAP_FILE_PERMISSION',
    () => {
      chmodSync(folder, 0o555)
      return withoutRights(() => alice.save(at('a.safetensors')))
    },
  ],
  [
    'a picture saved without the right to write',
    'SWAP_FILE_PERMISSION',
    () => {
      chmodSync(folder, 0o555)
      return withoutRights(() => picture.save(at('a.png')))
    },
  ],
]

const COMMANDS: Row[] = [
  ['learn without a class', 'SWAP_OPTION_USAGE', () => swap('learn', PHOTO)],
  [
    'learn with an unknown option',
    'SWAP_OPTION_USAGE',
    () => swap('learn', PHOTO, '--class', 'person', '--speed', '9'),
  ],
  [
    'learn with a text for a number',
    'SWAP_OPTION_USAGE',
    () => swap('learn', PHOTO, '--class', 'person', '--steps', 'many'),
  ],
  ['learn with no steps', 'SWAP_OPTION_INVALID', () => swap('learn', PHOTO, '--class', 'person', '--steps', '0')],
  ['learn from no photo', 'SWAP_IMAGE_NOT_FOUND', () => swap('learn', 'me.jpg', '--class', 'person', '--steps', '1')],
  [
    'learn an unknown class',
    'SWAP_PROMPT_UNKNOWN_CLASS',
    () => swap('learn', PHOTO, '--class', 'xqzvwk', '--steps', '1'),
  ],
  ['learn over the photo', 'SWAP_OPTION_USAGE', () => swap('learn', PHOTO, '--class', 'person', '--out', PHOTO)],
  [
    'learn over a file of another kind',
    'SWAP_FILE_EXISTS',
    () => swap('learn', PHOTO, '--class', 'person', '--out', file('notes.txt', 'mine')),
  ],
  [
    'learn into no folder',
    'SWAP_FILE_NOT_FOUND',
    () => swap('learn', PHOTO, '--class', 'person', '--out', 'no/a.safetensors'),
  ],
  [
    'generate with no subject file',
    'SWAP_FILE_NOT_FOUND',
    () => swap('generate', '<alice>', '--subject', 'a.safetensors'),
  ],
  ['generate with a picture as subject', 'SWAP_SUBJECT_INVALID', () => swap('generate', '<alice>', '--subject', PHOTO)],
  ['generate with an unknown scheduler', 'SWAP_OPTION_USAGE', () => swap('generate', 'a dog', '--scheduler', 'ddpm')],
  [
    'generate two pictures into one file',
    'SWAP_OPTION_USAGE',
    () => swap('generate', 'a dog', '--count', '2', '--out', 'a.png'),
  ],
  ['generate into a file of no known kind', 'SWAP_OPTION_USAGE', () => swap('generate', 'a dog', '--out', 'a.bmp')],
  ['generate from no picture', 'SWAP_IMAGE_NOT_FOUND', () => swap('generate', 'a dog', '--image', 'me.jpg')],
  ['generate with a mask alone', 'SWAP_OPTION_INVALID', () => swap('generate', 'a dog', '--mask', PHOTO)],
  [
    'generate with no strength',
    'SWAP_OPTION_INVALID',
    () => swap('generate', 'a dog', '--image', PHOTO, '--strength', '0'),
  ],
  ['generate from no model', 'SWAP_MODEL_NOT_FOUND', () => swap('generate', 'a dog', '--model', 'nowhere')],
]

describeRows('pictures', PICTURES)
describeRows('learning', LEARNING)
describeRows('drawing', DRAWING)
describeRows('beginnings', BEGINNINGS)
describeRows('files', FILES)
describeRows('commands', COMMANDS)

describe.skipIf(!disk)(`full disk${disk ? '' : ' (skipped: nothing may be mounted here)'}`, () => {
  const before = disk ? readdirSync(disk.path) : []
  test.each<Row>([
    ['a subject', 'SWAP_FILE_DISK_FULL', () => alice.save(join(disk!.path, 'a.safetensors'))],
    ['a picture', 'SWAP_FILE_DISK_FULL', () => picture.save(join(disk!.path, 'a.png'))],
  ])('%s: %s', async (_, code, act) => {
    await expect(act()).rejects.toMatchObject({ code })
    expect(readdirSync(disk!.path)).toEqual(before)
  })
  test('checkpoints: a warning, and learning goes on', async () => {
    const job = learn({ steps: 2, checkpoint: { path: join(disk!.path, 'a.resume'), every: 1 } })
    expect((await job).name).toBe('subject')
    expect(job.warnings.join()).toMatch(/no resume file.*disk is full/)
    expect(readdirSync(disk!.path)).toEqual(before)
  })
})
