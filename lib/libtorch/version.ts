/** The one version of LibTorch that the engine is built with, and the official archives of it. */

export const LIBTORCH_VERSION = '2.13.0'

/** An archive of LibTorch, pinned by its SHA-256. */
export interface Archive {
  /** Under the base address, already percent-encoded. */
  path: string
  sha256: string
  /** Bytes of the archive. */
  size: number
}

/** Where the official archives lie; `SWAP_LIBTORCH_URL` names a mirror with the same layout. */
export const ARCHIVE_BASE = 'https://download.pytorch.org/libtorch'

/** CPU builds, by `process.platform` and `process.arch`. Linux on arm64 has none: there a wheel serves. */
const ARCHIVES: Record<string, Archive> = {
  'linux-x64': {
    path: `cpu/libtorch-shared-with-deps-${LIBTORCH_VERSION}%2Bcpu.zip`,
    sha256: 'edbf4cbed78433d803e90a65f1752e57783d164bce66c95c0872b2ab8f5c159e',
    size: 126_385_248,
  },
  'darwin-arm64': {
    path: `cpu/libtorch-macos-arm64-${LIBTORCH_VERSION}.zip`,
    sha256: '1e10c6c4dc2764150c9fb2ad28e1889191302734e7f939108e5d2f22f21a06f8',
    size: 88_779_559,
  },
  'win32-x64': {
    path: `cpu/libtorch-win-shared-with-deps-${LIBTORCH_VERSION}%2Bcpu.zip`,
    sha256: 'e1cd3950adc30c54c364eaaf44c2b0caf1eafee29a6e811c805e6fe1ce912759',
    size: 199_487_097,
  },
}

/** The official archive for a platform, or undefined where none is published. */
export function archiveFor(platform: string = process.platform, arch: string = process.arch): Archive | undefined {
  return ARCHIVES[`${platform}-${arch}`]
}
