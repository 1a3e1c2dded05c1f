/** A whole training step with the fused attention, which is the default, against the same step in plain operators. */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { packageRoot } from '../../lib/paths.ts'

test('the embedded model: loss and gradient of a step with the fused attention are those of the plain one', () => {
  const script = join(packageRoot(), 'bench', 'attention', 'gradient.mjs')
  const { SWAP_ATTENTION: _, ...env } = process.env
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, '--json'], { env, encoding: 'utf8' })
  expect(status, stderr).toBe(0)
  const [found] = JSON.parse(stdout)
  expect(found.makes[0]).toMatch(/^cpu-/)
  expect(found.makes[1]).toBe('eager')
  expect(found.attention[0]).toBeGreaterThan(0)
  for (const [ours, plain] of [found.losses, found.attention]) expect(Math.abs(ours / plain - 1)).toBeLessThan(1e-4)
  expect(found.gradientError).toBeLessThan(1e-3)
  expect(found.gradientError).toBeGreaterThan(0)
}, 120_000)
