// OpenVINO in a virtual environment of its own, and the U-Net in its format.
import { existsSync } from 'node:fs'
import { at, fingerprint, once, run, say } from '../../scripts/common.mjs'

const VERSION = '2026.4.1'

export const openvinoPython = at('.cache', 'peers', 'openvino', 'bin', 'python')

/** True where it could be installed; the U-Net is converted once (`unet.xml` beside the model's folder). */
export async function setUpOpenvino(model) {
  try {
    await once('openvino', fingerprint(['tools/reference/requirements.txt'], VERSION), () => {
      say(`OpenVINO ${VERSION}`)
      // On top of the environment with torch and diffusers, which the conversion needs.
      run('python3', ['-m', 'venv', '--clear', at('.cache', 'peers', 'openvino')])
      run(openvinoPython, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', `openvino==${VERSION}`])
      const packages = 'import site; print(site.getsitepackages()[0])'
      run('sh', [
        '-c',
        `'${at('.cache/venv/bin/python')}' -c '${packages}' > "$('${openvinoPython}' -c '${packages}')/reference.pth"`,
      ])
    })
  } catch (error) {
    console.warn(`! OpenVINO is not compared: ${error.message}`)
    return false
  }
  if (!existsSync(`${model}/openvino/unet.xml`)) {
    say('converting the U-Net for OpenVINO')
    run(openvinoPython, [at('bench/peers/openvino_peer.py'), model, '--convert'])
  }
  return true
}
