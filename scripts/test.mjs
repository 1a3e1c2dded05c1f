// `npm test`: C++ tests, then everything else by vitest. Arguments go to vitest.
import { existsSync } from 'node:fs'
import { at, has, run, say } from './common.mjs'
import { python } from './python.mjs'

const env = has(python) ? { SWAP_PYTHON: python } : {}
const cpp = at('build', 'Release', process.platform === 'win32' ? 'cpp_tests.exe' : 'cpp_tests')
if (existsSync(cpp)) {
  say('C++ tests')
  if (env.SWAP_PYTHON && existsSync(at('tools/reference/schedulers.py'))) {
    env.SWAP_GOLDENS = at('.cache', 'scheduler-goldens')
    run(python, [at('tools/reference/schedulers.py'), env.SWAP_GOLDENS], { quiet: true })
  }
  run(cpp, [], { env })
} else {
  console.warn('! C++ tests were not built')
}
run(process.execPath, [at('node_modules', 'vitest', 'vitest.mjs'), 'run', ...process.argv.slice(2)], { env })
