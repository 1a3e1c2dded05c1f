// The addon and the engines, by cmake-js (which knows where Node-API's headers are) into build/Release.
import { availableParallelism } from 'node:os'
import { at, fingerprint, has, once, run, say } from './common.mjs'

/** C++ tests want Debian's doctest-dev; it is installed where this process may, else they are left out, visibly. */
function findDoctest() {
  const there = () =>
    has('sh', ['-c', 'echo "#include <doctest/doctest.h>" | "$0" -x c++ -fsyntax-only -', process.env.CXX ?? 'c++'])
  if (there()) return true
  if (process.getuid?.() === 0 && has('apt-get')) {
    say('doctest')
    run('sh', ['-c', 'apt-get update -qq && apt-get install -y -qq doctest-dev'], { quiet: true })
    return there()
  }
  console.warn('! C++ tests are skipped: doctest is not installed (apt-get install doctest-dev, brew install doctest)')
  return false
}

export async function buildNative({ libtorch, tests = false }) {
  const withTests = tests && findDoctest()
  const tested = withTests ? ['test/cpp', 'test/simt', 'cmake'] : []
  const sources = ['CMakeLists.txt', 'binding', 'cpp', 'cuda', 'test/fake_engine', ...tested]
  // The tests' build holds the plain one: only the tests' stamp asks for more.
  await once(withTests ? 'native-tests' : 'native', fingerprint(sources, libtorch), () => {
    say('native build')
    const cmakeJs = (command, ...options) =>
      run(process.execPath, [
        at('node_modules', 'cmake-js', 'bin', 'cmake-js'),
        ...[command, '--log-level', 'error', '--config', 'Release'],
        ...options,
      ])
    // Its `build` alone keeps the options of the first time.
    cmakeJs('configure', `--CDSWAP_LIBTORCH=${libtorch}`, ...(withTests ? ['--CDSWAP_TESTS=ON'] : []))
    cmakeJs('build', '--parallel', String(availableParallelism()))
  })
}
