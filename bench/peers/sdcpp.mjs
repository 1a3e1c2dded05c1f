// stable-diffusion.cpp in a virtual environment of its own: its Python package, which is built for this processor, and the
// model as a single file, the only form of Stable Diffusion 1.x that it reads.
import { existsSync, mkdirSync, renameSync } from 'node:fs'
import { at, fingerprint, has, once, run, say } from '../../scripts/common.mjs'
import { python } from '../../scripts/python.mjs'

const VERSION = '0.4.7'

export const sdcppPython = at('.cache', 'peers', 'sdcpp', 'bin', 'python')

export const sdcppModel = (folder) => `${folder}/sdcpp/model.safetensors`

/** True where it could be built. Some minutes the first time. */
export async function setUpSdcpp(folder) {
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
  if (!existsSync(sdcppModel(folder))) {
    say('writing the model as a single file for stable-diffusion.cpp')
    mkdirSync(`${folder}/sdcpp`, { recursive: true })
    const unfinished = `${sdcppModel(folder)}.tmp`
    run(python, [at('tools/reference/single_file.py'), '--folder', folder, '--out', unfinished])
    renameSync(unfinished, sdcppModel(folder))
  }
  return true
}
