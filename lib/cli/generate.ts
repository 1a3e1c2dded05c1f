/** `swap generate`: pictures of a prompt. */

import { readdir, stat } from 'node:fs/promises'
import { extname, join } from 'node:path'
import { type Command, Option } from 'commander'
import { SwapError } from '../errors.ts'
import { makeDirectory, writeFileAtomic } from '../files.ts'
import { contactSheet, formatOf, type ImageFormat } from '../image/index.ts'
import { type GeneratedImage, type GenerateEvent, type GenerateOptions, Subject } from '../index.ts'
import { generateSchema, parseOptions, SCHEDULERS } from '../options.ts'
import { type ControlArgument, collect, control, number, readStdin, writeStdout } from './args.ts'
import { addModelOptions, type ModelFlags, withPersonalizer } from './model.ts'
import { duration, megabytes, type Output, rounded, timeLeft } from './output.ts'
import { run, usage } from './run.ts'

interface GenerateFlags extends ModelFlags {
  like?: string
  subject?: string[]
  out: string
  count?: number
  seed?: number
  steps?: number
  guidanceScale?: number
  scheduler?: GenerateOptions['scheduler']
  negativePrompt?: string
  promptWeights?: boolean
  isolate?: boolean
  width?: number
  image?: string
  strength?: number
  mask?: string
  guidanceRescale?: number
  height?: number
  batch?: number
  control?: ControlArgument[]
  format?: ImageFormat
  sheet: boolean
  force?: boolean
  json?: boolean
}

export function addGenerate(program: Command): void {
  const command = program
    .command('generate')
    .summary('draw pictures of a prompt')
    .description('Draws pictures of a prompt in which <name> stands for a learnt subject.')
    .argument('[prompt]', 'what to draw, or - for standard input')
    .option('--like <file>', 'a PNG that swap drew: all that is not said is as it was then')
    .option('--subject <file>', 'a learnt subject, or a Textual Inversion file; may repeat', collect)
    .option('--out <path>', 'a folder, a file (.png, .jpg, .webp), or - for a PNG on standard output', '.')
    .option('--count <n>', 'how many pictures; picture k has seed + k (default: 1)', number)
    .option('--seed <n>', 'of the first picture (default: 0)', number)
    .option('--steps <n>', "denoising steps (default: the model's)", number)
    .option('--guidance-scale <x>', "how strongly the prompt counts (default: the model's)", number)
    .addOption(new Option('--scheduler <name>', "(default: the model's)").choices(SCHEDULERS))
    .option('--negative-prompt <text>', 'what to keep away from')
    .option('--prompt-weights', '(word:1.2) in the prompts is a weight')
    .option('--isolate', "keep words behind a subject apart from it (default: the model's)")
    .option('--no-isolate', 'let them take something of it')
    .option('--width <px>', "(default: the model's, or the size of --image)", number)
    .option('--height <px>', "(default: the model's, or the size of --image)", number)
    .option('--image <file>', 'a picture to begin from, or - for standard input')
    .option(
      '--strength <x>',
      'how much of --image is done anew, above 0 and at most 1 (default: 0.8, with --mask 1)',
      number,
    )
    .option('--mask <file>', 'white where --image is painted anew, black where it is kept')
    .option('--guidance-rescale <x>', 'against overexposure at a high guidance scale, 0 to 1 (default: 0)', number)
    .option('--batch <n>', 'pictures computed at once (default: as many as fit in memory)', number)
    .option('--control <net>', 'a ControlNet: model=PATH,image=PATH[,scale=1][,start=0][,end=1]; may repeat', control)
    .addOption(
      new Option('--format <format>', 'of the pictures in a folder (default: png)').choices(['png', 'jpg', 'webp']),
    )
    .option('--no-sheet', 'no contact sheet of several pictures')
    .option('--force', 'overwrite the file that --out names')
    .option('--json', 'one JSON object a line')
  addModelOptions(command)
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  $ swap generate "a photo of <alice> at the beach" --subject alice.safetensors --out pictures --count 4\n' +
        '  $ swap generate "<alice> and <rex> in the snow" --subject alice.safetensors --subject rex.safetensors --out snow.png\n' +
        '  $ swap generate "<alice> in the snow" --subject alice.safetensors --image me.jpg --strength 0.6 --out snow.png\n' +
        '  $ echo "a photo of a person" | swap generate - --out - --seed 7 > person.png',
    )
    .action((given: string | undefined, flags: GenerateFlags) =>
      run({ json: flags.json ?? false, binary: flags.out === '-' }, async (context) => {
        const { output, signal } = context
        if (given === undefined && flags.like === undefined) throw usage("missing required argument 'prompt'")
        if (given === '-' && flags.image === '-') throw usage('standard input cannot be the prompt and the picture')
        const prompt = given === '-' ? (await readStdin('the prompt')).toString('utf8').trim() : given
        if (given === '-' && prompt === '') throw usage('standard input has no prompt')
        const options: GenerateOptions = {
          prompt,
          like: flags.like,
          negativePrompt: flags.negativePrompt,
          promptWeights: flags.promptWeights,
          isolate: flags.isolate,
          steps: flags.steps,
          guidanceScale: flags.guidanceScale,
          scheduler: flags.scheduler,
          seed: flags.seed,
          count: flags.count,
          width: flags.width,
          height: flags.height,
          batch: flags.batch,
          image: flags.image === '-' ? await readStdin('the picture') : flags.image,
          strength: flags.strength,
          mask: flags.mask,
          guidanceRescale: flags.guidanceRescale,
          control: flags.control,
        }
        // Before a model is read: is all of it in range, and can the result be written?
        parseOptions(generateSchema, options, 'generate')
        const target = await prepareTarget(flags)
        options.subjects = await Promise.all((flags.subject ?? []).map((path) => Subject.load(path)))

        const started = Date.now()
        const images = await withPersonalizer(flags, context, async (personalizer) => {
          const job = personalizer.generate(options, { signal, onWarning: (warning) => output.warn(warning) })
          for await (const event of job) report(output, event)
          return await job
        })
        const seconds = (Date.now() - started) / 1000
        output.endProgress()
        await target.write(images, output)
        output.note(`${images.length} picture${images.length === 1 ? '' : 's'} in ${duration(seconds)}`)
      }),
    )
}

function report(output: Output, { type, step, steps, secondsLeft }: GenerateEvent): void {
  // Batches are decoded between steps: for a person that is one way, not two that take turns.
  if (type === 'decode' && !output.json) return
  const detail =
    type === 'load' || type === 'download'
      ? `${megabytes(step)} of ${megabytes(steps)}`
      : `step ${step} of ${steps}${timeLeft(secondsLeft)}`
  output.progress(PHASES[type], {
    done: step,
    total: steps,
    detail,
    data: { secondsLeft: rounded(secondsLeft) },
  })
}

const PHASES = { download: 'download', load: 'loading', step: 'drawing', decode: 'decoding' } as const

interface Target {
  write(images: GeneratedImage[], output: Output): Promise<void>
}

/** Where the pictures go: standard output, one file, or a folder. */
async function prepareTarget(flags: GenerateFlags): Promise<Target> {
  const { out, count = 1 } = flags
  const one = (what: string): void => {
    if (count !== 1) throw usage(`--count ${count} does not fit ${what}`, 'give a folder as --out')
  }
  if (out === '-') {
    one('standard output')
    return {
      write: async ([image], output) => {
        await writeStdout(await image!.toBuffer(flags.format ?? 'png'))
        say(output, image!, out, 'standard output holds the picture')
      },
    }
  }
  const present = await stat(out).catch(() => undefined)
  if (extname(out) !== '' && !present?.isDirectory()) {
    readableFormat(out)
    one('one file')
    if (present && !flags.force)
      throw new SwapError('SWAP_FILE_EXISTS', `"${out}" is there already`, { hint: 'choose another name, or --force' })
    return {
      write: async ([image], output) => {
        await image!.save(out)
        say(output, image!, out)
      },
    }
  }
  await makeDirectory(out)
  return { write: (images, output) => writeFolder(images, flags, output) }
}

/** The extension of `--out` is of the command line's making. */
function readableFormat(out: string): void {
  try {
    formatOf(out)
  } catch (error) {
    throw error instanceof SwapError ? usage(`--out ${error.message}`, error.hint) : error
  }
}

function say(output: Output, image: GeneratedImage, path: string, text = path): void {
  const { seed, width, height } = image
  output.result({ path, seed, width, height }, text)
}

async function writeFolder(images: GeneratedImage[], flags: GenerateFlags, output: Output): Promise<void> {
  const { out, format = 'png' } = flags
  const present = await readdir(out)
  // Numbers go on after those that are there, so nothing is overwritten.
  const numbers = present.map((name) => Number(/^(\d{4,})-seed\d+\./.exec(name)?.[1] ?? 0))
  let next = Math.max(0, ...numbers) + 1
  for (const image of images) {
    const path = join(out, `${String(next).padStart(4, '0')}-seed${image.seed}.${format}`)
    await image.save(path)
    say(output, image, path)
    next += 1
  }
  if (images.length < 2 || !flags.sheet) return
  const path = join(out, freeName('contact-sheet', present))
  await writeFileAtomic(path, await sheetOf(images))
  output.result({ path, sheet: true }, path)
}

function freeName(stem: string, present: string[]): string {
  for (let k = 1; ; k += 1) {
    const name = `${stem}${k === 1 ? '' : `-${k}`}.png`
    if (!present.includes(name)) return name
  }
}

async function sheetOf(images: GeneratedImage[]): Promise<Buffer> {
  const [first] = images
  const { steps, guidanceScale, scheduler, model } = first!.parameters
  const across = images.length <= 4 ? images.length : Math.min(8, Math.ceil(Math.sqrt(images.length * 1.5)))
  const cells = Array.from({ length: Math.ceil(images.length / across) }, (_, row) =>
    images.slice(row * across, (row + 1) * across).map((image) => ({ image, label: `seed ${image.seed}` })),
  )
  return await contactSheet(cells, {
    title: first!.prompt || '(no prompt)',
    subtitle: `${model} · ${scheduler} · ${steps} steps · guidance ${guidanceScale}`,
  })
}
