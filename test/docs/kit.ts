/** The examples of the docs, run as they stand there, in a folder of a project that has the package. */
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageRoot } from '../../lib/paths.ts'
import { cli, execute, type Result, temporary } from '../cli/kit.ts'

/** The fenced blocks of a language in `docs/<page>.md`, in order. */
export function examples(page: string, language: 'js' | 'sh'): string[] {
  const text = readFileSync(join(packageRoot(), 'docs', `${page}.md`), 'utf8')
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, 'gm'))].map(([, code]) => code!)
}

/** A folder in which `@swap/native` is installed: this checkout. */
export function project(): string {
  const folder = temporary()
  mkdirSync(join(folder, 'node_modules', '@swap'), { recursive: true })
  symlinkSync(packageRoot(), join(folder, 'node_modules', '@swap', 'native'))
  return folder
}

/** Runs a block, on the fake engine unless `env` says otherwise; `npx swap` is the checkout's. */
export async function runExample(
  code: string,
  language: 'js' | 'sh',
  cwd: string,
  env: NodeJS.ProcessEnv = {},
): Promise<Result> {
  if (language === 'sh') {
    const script = code.replaceAll('npx swap', `'${process.execPath}' '${cli}'`)
    return await execute('sh', ['-e', '-c', script], { cwd, env })
  }
  const file = join(cwd, 'example.mjs')
  writeFileSync(file, code)
  return await execute(process.execPath, [file], { cwd, env })
}
