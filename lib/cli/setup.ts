/** `swap setup`: gets LibTorch. */

import { type Command, Option } from 'commander'
import { findLibtorch, LIBTORCH_VERSION, type SetupProgress, setupLibtorch } from '../libtorch/index.ts'
import { megabytes } from './output.ts'
import { run } from './run.ts'

interface SetupFlags {
  from: 'auto' | 'archive' | 'pip'
  force?: boolean
  ifMissing?: boolean
  json?: boolean
}

const LABELS: Record<SetupProgress['phase'], string> = { download: 'download', pip: 'pip', unpack: 'unpack' }

export function addSetup(program: Command): void {
  program
    .command('setup')
    .summary('get LibTorch for this machine')
    .description(
      `Gets LibTorch ${LIBTORCH_VERSION} for this machine into the cache folder (SWAP_CACHE), with a checksum.\n` +
        'An interrupted run goes on where it stopped. Proxies: HTTPS_PROXY, NO_PROXY. A mirror: SWAP_LIBTORCH_URL.',
    )
    .addOption(
      new Option(
        '--from <where>',
        'the official archive, the Python wheel by pip, or the first of these that is reached',
      )
        .choices(['auto', 'archive', 'pip'])
        .default('auto'),
    )
    .option('--force', 'fetch again what is already there')
    .option('--if-missing', 'do nothing where a LibTorch of the right version is found anywhere')
    .option('--json', 'one JSON object a line')
    .addHelpText(
      'after',
      '\nExamples:\n  $ swap setup\n  $ HTTPS_PROXY=http://proxy:3128 swap setup\n  $ swap setup --from pip',
    )
    .action((flags: SetupFlags) =>
      run(flags, async ({ output, signal }) => {
        const present = flags.ifMissing && !flags.force ? await findLibtorch().catch(() => undefined) : undefined
        const libtorch =
          present ??
          (await setupLibtorch({
            from: flags.from,
            force: flags.force,
            signal,
            onNote: (note) => output.note(note),
            onProgress: ({ phase, done, total }) =>
              output.progress(LABELS[phase], {
                done,
                total,
                detail: total ? `${megabytes(done)} of ${megabytes(total)}` : '',
              }),
          }))
        const { version, flavour, root, source } = libtorch
        output.result({ version, flavour, root, source }, `LibTorch ${version} (${flavour}) is at ${root}`)
      }),
    )
}
