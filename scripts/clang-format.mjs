// Formatting of the C++ sources by clang-format: checks, or mends with --write.
import { at, has, run } from './common.mjs'

if (!has('clang-format')) {
  console.error('clang-format is not installed (apt-get install clang-format)')
  process.exit(process.env.CI ? 1 : 0)
}
const tracked = run('git', ['ls-files', '*.cpp', '*.h', '*.cu', '*.cuh'], { quiet: true })
const sources = tracked
  .trim()
  .split('\n')
  .filter(Boolean)
  .map((file) => at(file))
run('clang-format', process.argv.includes('--write') ? ['-i', ...sources] : ['--dry-run', '--Werror', ...sources])
