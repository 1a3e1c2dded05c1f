/** Which engine, with which LibTorch, for which device. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { enginePath, hasEngine } from './addon.ts'
import { SwapError } from './errors.ts'
import type { LibTorch } from './libtorch/index.ts'

/** True where NVIDIA's driver is. It says nothing about the GPU behind it: the engine asks for that. */
export function hasGpuDriver(
  platform: string = process.platform,
  exists: (path: string) => boolean = existsSync,
): boolean {
  if (platform === 'linux') return exists('/dev/nvidiactl') || exists('/dev/dxg')
  return platform === 'win32' && exists(join(process.env.SystemRoot ?? 'C:\\Windows', 'System32', 'nvcuda.dll'))
}

/** The LibTorch to look for first: one with CUDA where a GPU is asked for, or may be used. */
export function wantedFlavour(device: string, gpu: boolean): 'cpu' | 'cuda' {
  return device.startsWith('cuda') || (device === 'auto' && gpu) ? 'cuda' : 'cpu'
}

/** What the addon opens, and the device that it asks the engine for. */
export interface EngineChoice {
  engine: string
  libraries: string[]
  device: string
}

/**
 * The engine library, the LibTorch that it needs, and the device to ask it for, in the order in which they are tried:
 * where `'auto'` finds a driver, the engine for CPUs stands behind the one for CUDA.
 *
 * @throws SwapError `SWAP_DEVICE_UNAVAILABLE` where a GPU was asked for and cannot be used; `SWAP_ENGINE_MISSING`
 */
export function chooseEngine(
  device: string,
  libtorch: LibTorch | undefined,
  folder: string,
  gpu: boolean,
): EngineChoice[] {
  const cuda = libtorch?.flavour === 'cuda' && hasEngine(folder, 'cuda')
  if (libtorch && device.startsWith('cuda') && !cuda) {
    const [lacking, hint] = hasEngine(folder, 'cuda')
      ? [
          `the LibTorch in "${libtorch.root}" computes on CPUs only`,
          '; for a GPU, name a LibTorch with CUDA: SWAP_LIBTORCH',
        ]
      : ['this build of the package has no engine for it', '']
    throw new SwapError('SWAP_DEVICE_UNAVAILABLE', `the device '${device}' was asked for, but ${lacking}`, {
      hint: `use device: 'auto'${hint}`,
    })
  }
  const onGpu = { engine: '', libraries: libtorch?.libraries ?? [], device }
  if (cuda && device.startsWith('cuda')) return [{ ...onGpu, engine: enginePath(folder, 'cuda') }]
  const onCpu = {
    engine: enginePath(folder, 'cpu'),
    libraries: libtorch?.cpuLibraries ?? [],
    device: device === 'auto' ? 'cpu' : device,
  }
  // The engine for CUDA falls back to the CPU itself where there is a driver and no GPU.
  return cuda && device === 'auto' && gpu ? [{ ...onGpu, engine: enginePath(folder, 'cuda') }, onCpu] : [onCpu]
}
