/** LibTorch on this machine: finding it, getting it, and saying what is wrong with it. */

export { cachedLibtorch, cacheFolder } from './cache.ts'
export { type FindOptions, findLibtorch, type LibTorch, type LibTorchSource } from './find.ts'
export { type SetupOptions, type SetupProgress, setupLibtorch } from './setup.ts'
export { LIBTORCH_VERSION } from './version.ts'
