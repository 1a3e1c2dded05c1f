/** The commands of `swap` and what they have in common in their help. */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { packageRoot } from '../paths.ts'
import { addDoctor } from './doctor.ts'
import { addEvaluate } from './evaluate.ts'
import { addExport } from './export.ts'
import { addGenerate } from './generate.ts'
import { addLearn } from './learn.ts'
import { addModels } from './models.ts'
import { Output } from './output.ts'
import { addPull } from './pull.ts'
import { usage } from './run.ts'
import { addSetup } from './setup.ts'

function version(): string {
  return (JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string }).version
}

/** @param json Wrong usage is said as a JSON object too. */
export function buildProgram(json = false): Command {
  const program = new Command('swap')
    .description('Teach a Stable Diffusion model one subject from one photo, and put it into any prompt.')
    .version(version(), '-V, --version', 'the version of this package')
    .showHelpAfterError(json ? false : '(see --help)')
    .exitOverride()
    .configureOutput(
      json ? { outputError: (text) => new Output({ json }).error(usage(text.trim().replace(/^error: /, ''))) } : {},
    )
    .configureHelp({ showGlobalOptions: false })
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  $ swap setup\n' +
        '  $ swap learn me.jpg --class person --name alice --out alice.safetensors\n' +
        '  $ swap generate "a photo of <alice> at the beach" --subject alice.safetensors --out pictures\n' +
        '\nExit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.',
    )
  addLearn(program)
  addGenerate(program)
  addExport(program)
  addPull(program)
  addModels(program)
  addEvaluate(program)
  addSetup(program)
  addDoctor(program)
  return program
}
