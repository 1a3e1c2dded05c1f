/**
 * The engine for CUDA on a machine without a GPU: it opens, refuses `'cuda'` and computes on the CPU for `'auto'`.
 * Needs `npm run build:cuda`, and its LibTorch where that lies or in SWAP_LIBTORCH_CUDA; skipped where it is not there.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { addonFolder, hasEngine, loadAddon } from '../../lib/addon.ts'
import { hasGpuDriver } from '../../lib/device.ts'
import { findLibtorch } from '../../lib/libtorch/index.ts'
import { readLayout } from '../../lib/model/index.ts'
import { packageRoot } from '../../lib/paths.ts'
import { type OpenParts, openWith } from '../../lib/personalizer.ts'

const libtorch = process.env.SWAP_LIBTORCH_CUDA ?? join(packageRoot(), '.cache', 'libtorch-cuda', 'torch')
const built = (() => {
  try {
    return process.platform === 'linux' && existsSync(libtorch) && hasEngine(addonFolder(), 'cuda')
  } catch {
    return false
  }
})()
const mini = join(packageRoot(), 'models', 'mini')

/** As on a machine with NVIDIA's driver: only then is the engine for CUDA tried for 'auto'. */
const parts: OpenParts = {
  readLayout: (model, options) => readLayout(model, options),
  findLibtorch: (prefer) => findLibtorch({ env: { ...process.env, SWAP_LIBTORCH: libtorch }, prefer }),
  loadAddon,
  addonFolder,
  hasGpuDriver: () => true,
}

describe.skipIf(!built || hasGpuDriver())('the engine for CUDA without a GPU', () => {
  test("'cuda' is refused: no GPU", async () => {
    for (const device of ['cuda', 'cuda:0']) {
      await expect(openWith(parts, { model: mini, device }, {})).rejects.toMatchObject({
        code: 'SWAP_DEVICE_UNAVAILABLE',
        message: expect.stringContaining('LibTorch finds no GPU'),
      })
    }
  })

  test("'auto' learns and draws on the CPU", async () => {
    const personalizer = await openWith(parts, { model: mini, device: 'auto', dtype: 'float32' }, {})
    try {
      expect(readFileSync('/proc/self/maps', 'utf8')).toContain('libswap_engine_cuda.so')
      expect(personalizer.info.device).toBe('cpu')
      expect(personalizer.info.attention).toMatch(/^cpu-/)
      const image = join(mini, 'people', '6.png')
      const job = personalizer.learn({ image, class: 'person', name: 'alice', steps: 3, batch: 1, seed: 1 })
      const losses: number[] = []
      for await (const event of job) losses.push(event.loss)
      const alice = await job
      expect(losses).toHaveLength(3)
      expect(losses.every(Number.isFinite)).toBe(true)
      const prompt = 'a photo of <alice>'
      const [picture] = await personalizer.generate({ prompt, subjects: [alice], steps: 2, seed: 1 })
      expect(new Set(picture?.data).size).toBeGreaterThan(16)
    } finally {
      await personalizer.close()
    }
  })
})
