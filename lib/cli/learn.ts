/** `swap learn`: from one photo to a subject. */

import { access, constants, stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { type Command, Option } from 'commander'
import { SwapError } from '../errors.ts'
import { fileError } from '../files.ts'
import { readPhoto } from '../image/index.ts'
import { type LearnEvent, type LearnOptions, Subject } from '../index.ts'
import { learnSchema, parseOptions } from '../options.ts'
import { collect, commandLine, crop, levels, number, readStdin, writeStdout } from './args.ts'
import { addModelOptions, type ModelFlags, withPersonalizer } from './model.ts'
import { duration, type Output, rounded, timeLeft } from './output.ts'
import { run, usage } from './run.ts'

interface LearnFlags extends ModelFlags {
  class: string
  name?: string
  out?: string
  steps?: number
  learningRate?: number
  batch?: number
  seed?: number
  stages?: number
  attentionWeight?: number
  levels?: number[] | 'all'
  crop?: Exclude<LearnOptions['crop'], undefined>
  mask?: string
  conditioning?: 'split' | 'shared'
  parametrization?: 'attention' | 'direct'
  template?: string[]
  resume?: string
  force?: boolean
  json?: boolean
}

export function addLearn(program: Command): void {
  const command = program
    .command('learn')
    .summary('learn a subject from one photo')
    .description('Learns a subject from one photo and writes it to a small file, for use in any prompt.')
    .argument('<photo>', 'the photo (JPEG, PNG, WebP, AVIF, GIF, TIFF), or - for standard input')
    .requiredOption('--class <word>', 'what it is, in a word that the model knows: person, dog, …')
    .option('--name <name>', 'its placeholder: alice is written <alice> in prompts (default: subject)')
    .option('--out <file>', 'the file to write, or - for standard output (default: NAME.safetensors)')
    .option('--steps <n>', "training steps (default: the model's)", number)
    .option('--learning-rate <x>', "of AdamW (default: the model's)", number)
    .option('--batch <n>', "samples a step (default: the model's)", number)
    .option('--seed <n>', 'of the noise and the order of the templates (default: 0)', number)
    .option('--stages <s>', 'stages of the denoising with vectors of their own, 1 to 10 (default: 5)', number)
    .option('--attention-weight <x>', "weight of the attention loss; 0 turns it off (default: the model's)", number)
    .option('--levels <list>', "levels that the attention loss looks at: 1,2 or all (default: the model's)", levels)
    .option('--crop <square>', 'center, or left,top,size in pixels of the photo (default: center)', crop)
    .option('--mask <file>', 'a picture, white where the subject is')
    .addOption(
      new Option(
        '--conditioning <kind>',
        'vectors of their own for keys and values, or one for both (default: split)',
      ).choices(['split', 'shared']),
    )
    .addOption(
      new Option(
        '--parametrization <kind>',
        "vectors through the self-attention module, or themselves (default: the model's)",
      ).choices(['attention', 'direct']),
    )
    .option('--template <text>', 'a prompt to learn with, {} where the subject goes; may repeat', collect)
    .option('--resume <file>', 'go on from the file that an interrupted run left')
    .option('--force', 'overwrite a file that is no subject')
    .option('--json', 'one JSON object a line')
  addModelOptions(command)
    .addHelpText(
      'after',
      '\nCtrl-C ends it and leaves FILE.resume, and the command that goes on with it is printed.\n' +
        '\nExamples:\n' +
        '  $ swap learn me.jpg --class person --name alice --out alice.safetensors\n' +
        '  $ swap learn rex.jpg --class dog --name rex --crop 120,40,800 --model ./stable-diffusion-v1-5\n' +
        '  $ swap learn me.jpg --class person --name alice --resume alice.safetensors.resume\n' +
        '  $ curl -s https://example.org/me.jpg | swap learn - --class person --out - > me.safetensors',
    )
    .action((photo: string, flags: LearnFlags) =>
      run({ json: flags.json ?? false, binary: flags.out === '-' }, async (context) => {
        const { output, signal } = context
        const name = flags.name ?? 'subject'
        const out = flags.out ?? `${name}.safetensors`
        const resumeFile = `${out === '-' ? `${name}.safetensors` : out}.resume`
        const options: LearnOptions = {
          image: photo === '-' ? await readStdin('the photo') : photo,
          class: flags.class,
          name: flags.name,
          steps: flags.steps,
          learningRate: flags.learningRate,
          batch: flags.batch,
          seed: flags.seed,
          stages: flags.stages,
          attention: { weight: flags.attentionWeight, levels: flags.levels },
          crop: flags.crop,
          mask: flags.mask,
          conditioning: flags.conditioning,
          parametrization: flags.parametrization,
          templates: flags.template,
          resume: flags.resume,
          checkpoint: resumeFile,
        }
        // Before minutes go by: is all of it in range, is the photo one, and can the result be written?
        const checked = parseOptions(learnSchema, options, 'learn')
        await readPhoto(checked.image, { size: 64, crop: checked.crop ?? 'center' })
        if (out !== '-') await checkTarget(out, photo, flags.force ?? false)

        const started = Date.now()
        let last: LearnEvent | undefined
        try {
          const subject = await withPersonalizer(flags, context, async (personalizer) => {
            const job = personalizer.learn(options, { signal, onWarning: (warning) => output.warn(warning) })
            for await (const event of job) {
              last = event
              report(output, event)
            }
            return await job
          })
          if (out === '-') await writeStdout(subject.toBuffer())
          else await subject.save(out)
          const seconds = (Date.now() - started) / 1000
          output.result(
            {
              out,
              name: subject.name,
              class: subject.classWord,
              steps: subject.metadata.steps,
              seconds: rounded(seconds),
            },
            `${out === '-' ? 'standard output' : out} holds <${subject.name}> (${subject.classWord}), learnt in ${duration(seconds)}`,
          )
        } catch (error) {
          await sayHowToGoOn(output, resumeFile, last, photo)
          throw error
        }
      }),
    )
}

function report(output: Output, event: LearnEvent): void {
  const { step, steps, loss, reconstruction, attention, stage, secondsLeft } = event
  output.progress('learning', {
    done: step,
    total: steps,
    detail: `loss ${loss.toFixed(4)} · attention ${attention.toFixed(4)}${timeLeft(secondsLeft)}`,
    data: { step, steps, loss, reconstruction, attention, stage, secondsLeft: rounded(secondsLeft) },
  })
}

/** A subject may be learnt anew; anything else of that name was not meant. */
async function checkTarget(out: string, photo: string, force: boolean): Promise<void> {
  if (photo !== '-' && resolve(out) === resolve(photo)) throw usage(`--out names the photo itself: "${out}"`)
  try {
    await access(dirname(resolve(out)), constants.W_OK)
  } catch (error) {
    throw fileError(error, out, 'write')
  }
  const present = await stat(out).catch(() => undefined)
  if (!present || force) return
  if (present.isDirectory()) throw usage(`--out names a folder: "${out}"`, 'give the name of a file')
  const isSubject = await Subject.load(out).then(
    () => true,
    () => false,
  )
  if (!isSubject)
    throw new SwapError('SWAP_FILE_EXISTS', `"${out}" is there already and is no subject`, {
      hint: 'choose another name, or --force',
    })
}

/** After Ctrl-C or a failure: the command that goes on, where there is something to go on from. */
async function sayHowToGoOn(
  output: Output,
  resumeFile: string,
  last: LearnEvent | undefined,
  photo: string,
): Promise<void> {
  if (!last || !(await stat(resumeFile).catch(() => undefined))) return
  const argv = process.argv.slice(2)
  const command = `${commandLine(argv, { '--resume': resumeFile })}${photo === '-' ? ' < PHOTO' : ''}`
  const { step, steps } = last
  output.note(`stopped after step ${step} of ${steps}; go on with:\n  ${command}`, {
    resume: resumeFile,
    step,
    steps,
    command,
  })
}
