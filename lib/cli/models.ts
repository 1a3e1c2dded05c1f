/** `swap models`: what can be opened without fetching anything. */
import type { Command } from 'commander'
import { listModels } from '../hub/index.ts'
import { megabytes } from './output.ts'
import { run } from './run.ts'

export function addModels(program: Command): void {
  program
    .command('models')
    .summary('list the models that are here')
    .description('Lists the embedded model and those in the cache of the Hugging Face hub (HF_HOME, HF_HUB_CACHE).')
    .option('--json', 'one JSON object a line')
    .addHelpText('after', '\nExamples:\n  $ swap models\n  $ swap models --json')
    .action((flags: { json?: boolean }) =>
      run(flags, async ({ output }) => {
        const models = await listModels()
        const wide = Math.max(...models.map(({ model }) => model.length))
        for (const one of models) {
          const words = [one.model.padEnd(wide), one.family.padEnd(6), megabytes(one.size).padStart(8), one.path]
          if (!one.whole) words.push('(files are missing: swap pull goes on)')
          output.result({ ...one }, words.join('  '))
        }
      }),
    )
}
