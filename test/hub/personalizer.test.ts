/** Opening a model by its name on the hub, and what the command line makes of it. */
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { locateModel } from '../../lib/hub/index.ts'
import { readLayout } from '../../lib/model/index.ts'
import type { OpenProgress } from '../../lib/options.ts'
import { packageRoot } from '../../lib/paths.ts'
import { swap } from '../cli/kit.ts'
import { open, parts, useFakeBinding } from '../lib/fixture.ts'
import { temporary } from '../libtorch/fixtures.ts'
import { COMMIT, filesOf, type HubOptions, serveHub, type TestHub } from './kit.ts'

const mini = filesOf(join(packageRoot(), 'models', 'mini'))

useFakeBinding()
let home: string
let hub: TestHub

async function begin(options: HubOptions = {}): Promise<void> {
  home = temporary()
  hub = await serveHub(home, { id: 'tiny/mini', files: mini, ...options })
  for (const [name, value] of Object.entries(hub.env)) vi.stubEnv(name, value)
  parts.readLayout = async (model, options) => {
    const { path, name } = await locateModel(model, options)
    const read = await readLayout(path)
    return name === undefined ? read : { ...read, name }
  }
}

afterEach(() => hub.close())

describe('Personalizer.open', () => {
  beforeEach(() => begin())

  it('fetches what is not here, says how far it is, and is called by the name that was given', async () => {
    const seen: OpenProgress[] = []
    const first = await open({ model: 'tiny/mini', onProgress: (progress) => void seen.push(progress) })
    expect(first.info).toMatchObject({ model: 'tiny/mini', family: 'mini', resolution: 128 })
    expect(first.info.path).toBe(join(home, 'hub', 'models--tiny--mini', 'snapshots', COMMIT))
    const last = seen.findLast(({ phase }) => phase === 'download')!
    expect(last.done).toBe(last.total)
    expect(hub.fetched).not.toContain('people/0.png')
    await first.close()
    const asked = hub.requests.length
    await (await open({ model: 'tiny/mini' })).close()
    expect(hub.requests).toHaveLength(asked)
  })

  it('stops when the signal is aborted, with its reason', async () => {
    const controller = new AbortController()
    const reason = new Error('no more')
    const onProgress = (): void => controller.abort(reason)
    await expect(open({ model: 'tiny/mini', onProgress }, { signal: controller.signal })).rejects.toBe(reason)
  })

  it('stops when the function for progress throws', async () => {
    const mistake = new Error('mine')
    const onProgress = (): void => {
      throw mistake
    }
    await expect(open({ model: 'tiny/mini', onProgress })).rejects.toBe(mistake)
  })
})

describe('the commands', () => {
  beforeEach(() => begin())
  const run = (...words: string[]) => swap([...words], { env: hub.env })

  it('pull fetches a model, models lists it, generate draws with it', async () => {
    const pulled = await run('pull', 'tiny/mini', '--json')
    expect(pulled.code).toBe(0)
    const result = pulled.events.find(({ type }) => type === 'result')!
    expect(result).toMatchObject({ model: 'tiny/mini', commit: COMMIT, size: result.fetched })
    expect(pulled.events.some(({ type, task }) => type === 'progress' && task === 'download')).toBe(true)

    const listed = (await run('models', '--json')).events
    expect(listed).toMatchObject([
      { type: 'result', model: 'mini', family: 'mini', whole: true, size: expect.any(Number) },
      { type: 'result', model: 'tiny/mini', family: 'mini', whole: true, size: result.size, path: result.path },
    ])
    const words = (await run('models')).stdout.split('\n')
    expect(words[1]).toMatch(/^tiny\/mini {2}mini +\d+ MB {2}\//)

    const again = await run('pull', 'tiny/mini')
    expect(again.stdout).toContain('all were there already')

    const env = { ...hub.env, HF_HUB_OFFLINE: '1' }
    const drawn = await swap(['generate', 'a person', '--model', 'tiny/mini', '--json', '--steps', '1'], { env })
    expect(drawn.events).toContainEqual(
      expect.objectContaining({ message: expect.stringContaining('tiny/mini on cpu') }),
    )
    expect(drawn.code).toBe(0)
  })

  it('pull says what is no name', async () => {
    for (const name of ['mini', './tiny/mini', 'a/b/c']) {
      const { code, stderr } = await run('pull', name)
      expect(code).toBe(2)
      expect(stderr).toContain(name)
    }
  })
})
