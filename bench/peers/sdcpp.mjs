// stable-diffusion.cpp in a virtual environment of its own: its Python package, which is built for this processor.
import { at, fingerprint, has, once, run, say } from '../../scripts/common.mjs'

const VERSION = '0.4.7'

export const sdcppPython = at('.cache', 'peers', 'sdcpp', 'bin', 'python')

/** True where it could be built. Some minutes the first time. */
export async function setUpSdcpp() {
  if (!has('cmake')) {
    console.warn('! stable-diffusion.cpp is not compared: there is no cmake')
    return false
  }
  await once('sdcpp', fingerprint([], VERSION), () => {
    say(`stable-diffusion.cpp, by stable-diffusion-cpp-python ${VERSION}`)
    run('python3', ['-m', 'venv', '--clear', at('.cache', 'peers', 'sdcpp')])
    run(sdcppPython, [
      ...['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check'],
      `stable-diffusion-cpp-python==${VERSION}`,
    ])
  })
  return true
}
