// A Python environment with the reference implementation (diffusers), for the parity tests only.
import { at, fingerprint, has, once, run, say } from './common.mjs'

export const python = at('.cache', 'venv', process.platform === 'win32' ? 'Scripts/python.exe' : 'bin/python')

export async function setUpReference() {
  if (!has('python3')) {
    console.warn('! parity with diffusers is not tested: there is no python3')
    return
  }
  await once('python', fingerprint(['tools/reference/requirements.txt']), () => {
    say('Python environment with the reference implementation')
    run('python3', ['-m', 'venv', '--clear', at('.cache', 'venv')])
    run(python, [
      '-m',
      'pip',
      'install',
      '--quiet',
      '--disable-pip-version-check',
      '-r',
      at('tools/reference/requirements.txt'),
    ])
  })
}
