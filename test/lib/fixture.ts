/** A personalizer over the real embedded model and a fake binding, fresh for every test. */
import { join } from 'node:path'
import { afterEach, beforeAll, beforeEach, expect, vi } from 'vitest'
import type { CallOptions } from '../../lib/job.ts'
import { type Model, type ModelLayout, readModel } from '../../lib/model/index.ts'
import type { OpenOptions } from '../../lib/options.ts'
import { packageRoot } from '../../lib/paths.ts'
import { type OpenParts, openWith, type Personalizer } from '../../lib/personalizer.ts'
import { FakeBinding, type FakeEngine } from './fake_binding.ts'

export const PEOPLE = join(packageRoot(), 'models', 'mini', 'people')
/** A picture of a person, 128 pixels a side. */
export const PHOTO = join(PEOPLE, '0.png')
/** Floats a vector of the embedded model. */
export const WIDTH = 192

export let mini: Model
export let binding: FakeBinding
export let parts: OpenParts

/** To be called once at the top of a test file. */
export function useFakeBinding(): void {
  beforeAll(async () => {
    mini = await readModel('mini')
  })
  beforeEach(() => {
    binding = new FakeBinding()
    parts = {
      readLayout: async () => layoutOf(mini),
      findLibtorch: async () => {
        throw new Error('no LibTorch is looked for beside an engine that was named')
      },
      loadAddon: () => binding,
      addonFolder: () => '/nowhere',
      hasGpuDriver: () => false,
    }
    // any file: the fake binding opens none
    vi.stubEnv('SWAP_ENGINE_LIBRARY', process.execPath)
  })
  afterEach(() => {
    vi.unstubAllEnvs()
  })
}

/** A model as opening finds it. */
export function layoutOf({ tokenizers, fingerprint, ...layout }: Model): ModelLayout {
  return { ...layout, rest: async () => ({ tokenizers, fingerprint }) }
}

export function open(options: OpenOptions = {}, call: CallOptions = {}): Promise<Personalizer> {
  return openWith(parts, options, call)
}

/** The engine that was made last. */
export function engine(): FakeEngine {
  return binding.engines.at(-1)!
}

/** Waits until something has happened elsewhere. */
export function until(condition: () => unknown): Promise<void> {
  return vi.waitFor(async () => expect(await condition()).toBeTruthy(), { interval: 1 })
}
