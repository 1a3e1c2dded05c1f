/** `swap export`: a subject as a Textual Inversion file for other programs. */
import { stat } from 'node:fs/promises'
import { type Command, Option } from 'commander'
import { type EmbeddingFormat, EXPORT_LOSS, FORMATS, meanLoss } from '../embedding/index.ts'
import { SwapError } from '../errors.ts'
import { Subject } from '../index.ts'
import { writeStdout } from './args.ts'
import { run } from './run.ts'

interface ExportFlags {
  format: EmbeddingFormat
  out: string
  force?: boolean
  json?: boolean
}

export function addExport(program: Command): void {
  program
    .command('export')
    .summary('write a subject for other programs')
    .description(
      'Writes a subject as a Textual Inversion file (safetensors) for other programs. They have one vector a token,\n' +
        'a subject one for every stage and for K and V: the mean is written, and likeness is lost.',
    )
    .argument('<subject>', 'a learnt subject')
    .addOption(new Option('--format <format>', 'whose file').choices(FORMATS).makeOptionMandatory())
    .requiredOption('--out <file>', 'a .safetensors file, or - for standard output')
    .option('--force', 'overwrite the file that --out names')
    .option('--json', 'one JSON object a line')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  $ swap export alice.safetensors --format diffusers --out learned_embeds.safetensors\n' +
        '  $ swap export alice.safetensors --format a1111 --out embeddings/alice.safetensors',
    )
    .action((path: string, { format, out, force, json }: ExportFlags) =>
      run({ json: json ?? false, binary: out === '-' }, async ({ output }) => {
        const subject = await Subject.load(path)
        if (out === '-') await writeStdout(subject.toBuffer({ format }))
        else {
          if (!force && (await stat(out).catch(() => undefined)))
            throw new SwapError('SWAP_FILE_EXISTS', `"${out}" is there already`, {
              hint: 'choose another name, or --force',
            })
          await subject.export(out, { format })
        }
        const { name, tokens, stages } = subject
        const lost = meanLoss(subject.vectors)
        if (lost > 0) output.warn(lossy(stages, lost))
        const where = out === '-' ? 'standard output' : out
        const many = tokens === 1 ? 'one vector' : `${tokens} vectors`
        output.result({ path: out, format, name, tokens, lost }, `${where} holds ${many} for ${format}`)
      }),
    )
}

function lossy(stages: number, lost: number): string {
  const of = stages === 1 ? 'K and V' : `${stages} stages of K and V`
  const { exported, word, seeds } = EXPORT_LOSS
  return (
    `what is written is the mean of ${of}; ${(100 * lost).toFixed(0)} % of the vectors' size is lost. On the embedded ` +
    `model pictures changed by ${exported} of 255 (by ${word} with the class word alone, by ${seeds} with another seed)`
  )
}
