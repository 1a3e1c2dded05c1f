/** `swap doctor`: what was found, what is missing, and how to get it. */

import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Command } from 'commander'
import { type Check, diagnose, type Probe, probeEngine } from '../libtorch/doctor.ts'
import { packageRoot } from '../paths.ts'
import { EXIT, run } from './run.ts'

const MARKS: Record<Check['status'], string> = { ok: 'ok     ', warn: 'note   ', bad: 'MISSING' }
const INDENT = ' '.repeat(19)

export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .summary('say what was found, what is missing and how to get it')
    .description('Looks at LibTorch, the engine, the device, the CPU, the embedded model and the disk.')
    .option('--json', 'one JSON object a line')
    .addHelpText(
      'after',
      '\nExit code 1 when something that is needed is missing.\n\nExamples:\n  $ swap doctor\n  $ swap doctor --json',
    )
    .action((flags: { json?: boolean }) =>
      run(flags, async ({ output }) => {
        const checks = await diagnose(probeApart)
        for (const check of checks) output.result({ ...check }, describe(check))
        const bad = checks.filter(({ status }) => status === 'bad')
        if (bad.length > 0) process.exitCode = EXIT.failed
        if (!output.json)
          output.note(
            bad.length > 0 ? `missing: ${bad.map(({ name }) => name).join(', ')}` : 'all that is needed is here',
          )
      }),
    )
  program.command('probe', { hidden: true }).action(async () => {
    process.stdout.write(`${JSON.stringify(await probeEngine())}\n`)
  })
}

function describe({ name, status, found, details, hint }: Check): string {
  const lines = [`${MARKS[status]}  ${name.padEnd(8)}  ${found}`, ...details.map((detail) => `${INDENT}${detail}`)]
  if (hint) lines.push(`${INDENT}-> ${hint}`)
  return lines.join('\n')
}

/** In a process of its own: a library that does not fit this machine may take the process down. */
async function probeApart(): Promise<Probe> {
  const cli = join(packageRoot(), 'dist', 'cli.cjs')
  if (!existsSync(cli)) return await probeEngine()
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, [cli, 'probe'], { encoding: 'utf8' })
  try {
    return JSON.parse(stdout.trim().split('\n').at(-1)!) as Probe
  } catch {
    const end = signal ? `ended by ${signal}` : `exit code ${status}`
    return {
      ok: false,
      message: `the engine cannot be loaded (${end}) ${stderr.trim().split('\n')[0]}`,
      hint: 'LibTorch does not fit this CPU or system',
    }
  }
}
