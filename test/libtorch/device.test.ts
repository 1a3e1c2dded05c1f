import { describe, expect, it } from 'vitest'
import { hasGpuDriver, wantedFlavour } from '../../lib/device.ts'
import { checkDevice } from '../../lib/libtorch/doctor.ts'
import type { Place } from '../../lib/libtorch/find.ts'
import { LIBTORCH_VERSION } from '../../lib/libtorch/index.ts'

function place(flavour: 'cpu' | 'cuda', more: { source?: Place['source']; missing?: string[] } = {}): Place {
  const { source = 'cache', missing = [] } = more
  const found = { root: '/torch', version: LIBTORCH_VERSION, flavour, libraries: [], cpuLibraries: [], missing }
  return { source, path: '/torch', found, usable: true, note: '' }
}

describe('what swap doctor says of the device', () => {
  const gpus = ['NVIDIA A100, 580.65.06']
  const all = { driver: true, gpus, engine: true }

  it('is cuda where driver, LibTorch and engine are there', () => {
    expect(checkDevice([place('cpu'), place('cuda', { source: 'python' })], all)).toEqual({
      name: 'device',
      status: 'ok',
      found: 'cuda',
      details: ['NVIDIA: NVIDIA A100, 580.65.06'],
      hint: undefined,
    })
  })

  it('is cpu without a driver, which is nothing to worry about', () => {
    const check = checkDevice([place('cpu')], { driver: false, gpus: [], engine: false })
    expect(check).toMatchObject({ status: 'ok', found: 'cpu', hint: undefined })
    expect(check.details[0]).toContain('no NVIDIA driver')
  })

  it.each([
    ['no engine', [place('cuda')], { ...all, engine: false }, 'no CUDA engine', 'npm run build:cuda'],
    ['no LibTorch with CUDA', [place('cpu')], all, 'CPU build', 'pip install torch=='],
    [
      'SWAP_LIBTORCH names a CPU build',
      [place('cpu', { source: 'SWAP_LIBTORCH' }), place('cuda', { source: 'python' })],
      all,
      'CPU build',
      'unset it',
    ],
    [
      'a LibTorch without its libraries',
      [place('cuda', { missing: ['libcudart.so'] })],
      all,
      'lacks libcudart.so',
      'let pip install all',
    ],
  ])('has a reason: %s', (_, places, parts, detail, hint) => {
    const check = checkDevice(places, parts)
    expect(check).toMatchObject({ status: 'warn', found: 'cpu', hint: expect.stringContaining(hint) })
    expect(check.details.join('\n')).toContain(detail)
  })

  it('tells a driver without a GPU', () => {
    const { details } = checkDevice([place('cuda')], { ...all, gpus: [] })
    expect(details).toEqual(["NVIDIA's driver is here, but nvidia-smi lists no GPU"])
  })
})

describe('the driver', () => {
  it('is known by what it leaves on the system', () => {
    const only = (path: string) => (asked: string) => asked === path
    expect(hasGpuDriver('linux', only('/dev/nvidiactl'))).toBe(true)
    expect(hasGpuDriver('linux', only('/dev/dxg'))).toBe(true)
    expect(hasGpuDriver('linux', () => false)).toBe(false)
    expect(hasGpuDriver('win32', (path) => path.endsWith('nvcuda.dll'))).toBe(true)
    expect(hasGpuDriver('darwin', () => true)).toBe(false)
  })

  it('decides with the device which LibTorch is looked for', () => {
    expect(wantedFlavour('auto', true)).toBe('cuda')
    expect(wantedFlavour('auto', false)).toBe('cpu')
    expect(wantedFlavour('cuda:1', false)).toBe('cuda')
    expect(wantedFlavour('cpu', true)).toBe('cpu')
  })
})
