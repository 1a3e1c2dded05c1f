/** `swap pull`: a model from the hub into its cache. */
import { type Command, Option } from 'commander'
import { parseReference, pull } from '../hub/index.ts'
import { megabytes } from './output.ts'
import { run, usage } from './run.ts'

interface PullFlags {
  weights: 'full' | 'fp16'
  json?: boolean
}

export function addPull(program: Command): void {
  program
    .command('pull')
    .summary('get a model from the hub')
    .description(
      'Gets the files of a model that are needed into the cache of the Hugging Face hub (HF_HOME, HF_HUB_CACHE),\n' +
        'each verified by its checksum. An interrupted run goes on where it stopped.\n' +
        'Token: HF_TOKEN. Proxies: HTTPS_PROXY, NO_PROXY. A mirror: HF_ENDPOINT.',
    )
    .argument('<model>', 'owner/name, or owner/name@revision')
    .addOption(
      new Option('--weights <which>', 'where there are both: full, or fp16, which has half the size')
        .choices(['full', 'fp16'])
        .default('full'),
    )
    .option('--json', 'one JSON object a line')
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  $ swap pull stable-diffusion-v1-5/stable-diffusion-v1-5 --weights fp16\n' +
        '  $ HF_TOKEN=hf_… swap pull owner/name@main',
    )
    .action((model: string, flags: PullFlags) =>
      run(flags, async ({ output, signal }) => {
        const reference = parseReference(model)
        if (!reference) throw usage(`"${model}" is not owner/name or owner/name@revision`)
        const pulled = await pull(reference, {
          variant: flags.weights,
          signal,
          onProgress: ({ done, total, file }) =>
            output.progress('download', {
              done,
              total,
              detail: total ? `${megabytes(done)} of ${megabytes(total)} · ${file}` : file,
              data: { file },
            }),
        })
        const { path, commit, files, size, fetched } = pulled
        const news = fetched === 0 ? 'all were there already' : `${megabytes(fetched)} fetched`
        output.result(
          { model, path, commit, files, size, fetched },
          `${model}: ${files} files, ${megabytes(size)}, ${news}\n${path}`,
        )
      }),
    )
}
