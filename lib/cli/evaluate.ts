/** `swap evaluate`: how alike pictures are to a subject's photo, and how well they show their prompts. */

import type { Command } from 'commander'
import { describedIn } from '../image/index.ts'
import { type Estimate, Evaluator } from '../index.ts'
import { number } from './args.ts'
import { run, usage } from './run.ts'

interface EvaluateFlags {
  photo: string
  class: string
  prompt?: string
  identityNet?: string
  promptNet?: string
  threads?: number
  json?: boolean
}

export function addEvaluate(program: Command): void {
  program
    .command('evaluate')
    .summary("measure pictures of a subject against its photo and the pictures' prompts")
    .description(
      'Measures how alike pictures are to the photo that their subject was learnt from, how well they show their ' +
        'prompts, and ID(P): the likeness of those that do. Needs onnxruntime-node.',
    )
    .argument('<pictures...>', 'pictures of one subject')
    .requiredOption('--photo <file>', 'the photo that the subject was learnt from')
    .option('--class <word>', 'what stands for <name> in the prompts', 'person')
    .option('--prompt <text>', 'of all the pictures (default: the one in each PNG that swap wrote)')
    .option('--identity-net <card>', "the card of another net for likeness (default: the embedded model's)")
    .option('--prompt-net <card>', "the card of a classifier or CLIP (default: the embedded model's classifier)")
    .option('--threads <n>', 'CPU threads (default: 1)', number)
    .option('--json', 'one JSON object a line')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  $ swap evaluate pictures/*.png --photo me.jpg\n' +
        '  $ swap evaluate pictures/*.png --photo me.jpg --identity-net face.json --prompt-net clip.json',
    )
    .action((files: string[], flags: EvaluateFlags) =>
      run(flags, async ({ output, signal }) => {
        const pictures = await Promise.all(
          files.map(async (image) => ({ image, prompt: flags.prompt ?? (await promptIn(image)) })),
        )
        const evaluator = await Evaluator.open({
          identity: flags.identityNet,
          prompt: flags.promptNet,
          threads: flags.threads,
        })
        try {
          signal.throwIfAborted()
          const words = pictures.map(({ image, prompt }) => ({
            image,
            prompt: prompt.replace(/<[A-Za-z][\w-]*>/g, flags.class),
          }))
          const { pictures: scores, ...sums } = await evaluator.evaluate({ photo: flags.photo, pictures: words })
          for (const [k, { identity, prompt, passes }] of scores.entries())
            output.result(
              { picture: files[k], prompted: words[k]!.prompt, identity, prompt: prompt ?? null, passes },
              `${files[k]}: identity ${identity.toFixed(3)}, prompt ${prompt?.toFixed(3) ?? 'asks for nothing known'}${passes ? '' : ' (below the threshold)'}`,
            )
          output.result(
            { summary: sums, threshold: evaluator.promptThreshold },
            [
              `identity      ${shown(sums.identity)}`,
              `prompt        ${shown(sums.prompt)}`,
              `above ${evaluator.promptThreshold.toFixed(2)}    ${shown(sums.passed)}`,
              `ID(P)         ${shown(sums.idp)}`,
            ].join('\n'),
          )
        } finally {
          await evaluator.close()
        }
      }),
    )
}

async function promptIn(file: string): Promise<string> {
  const described = await describedIn(file)
  if (described) return described.prompt
  throw usage(`"${file}" does not say its prompt`, 'give it with --prompt; only PNG files that swap wrote say it')
}

function shown(estimate: Estimate | undefined): string {
  if (!estimate) return 'no picture'
  const { mean, low, high, count } = estimate
  return `${mean.toFixed(3)} (${low.toFixed(3)} to ${high.toFixed(3)}) of ${count}`
}
