/** docs/hub.md and docs/embeddings.md: what their examples do. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, expect, it } from 'vitest'
import { readSafetensors } from '../../lib/model/safetensors.ts'
import { packageRoot } from '../../lib/paths.ts'
import { Subject } from '../../lib/subject.ts'
import { filesOf, serveHub, type TestHub } from '../hub/kit.ts'
import { temporary } from '../libtorch/fixtures.ts'
import { examples, project, runExample } from './kit.ts'

const mini = filesOf(join(packageRoot(), 'models', 'mini'))
/** The engine itself, which the kit would leave out. */
const REAL = { SWAP_ENGINE_LIBRARY: process.env.SWAP_ENGINE_LIBRARY ?? '' }
let hub: TestHub | undefined
afterEach(async () => {
  await hub?.close()
  hub = undefined
})

it('hub.md: a model is fetched with progress and opened', async () => {
  hub = await serveHub(temporary(), { id: 'tiny/mini', files: mini })
  const [code, ...others] = examples('hub', 'js')
  expect(others).toEqual([])
  const { code: end, stdout, stderr } = await runExample(code!, 'js', project(), { ...hub.env, ...REAL })
  expect({ end, stderr }).toEqual({ end: 0, stderr: '' })
  const lines = stdout.trim().split('\n')
  expect(lines.at(-1)).toBe('tiny/mini')
  const [, done, total] = /^download (\d+) of (\d+)$/.exec(lines.findLast((line) => line.startsWith('download'))!)!
  expect(done).toBe(total)
})

it('hub.md: the commands fetch, list and draw', async () => {
  const name = 'stable-diffusion-v1-5/stable-diffusion-v1-5'
  hub = await serveHub(temporary(), { id: name, files: mini })
  const folder = project()
  const [code, ...others] = examples('hub', 'sh')
  expect(others).toEqual([])
  const { code: end, stdout } = await runExample(code!, 'sh', folder, { ...hub.env, ...REAL })
  expect(end).toBe(0)
  expect(stdout).toMatch(new RegExp(`^mini .*\\n${name} `, 'm'))
  expect(existsSync(join(folder, 'lighthouse.png'))).toBe(true)
})

it('embeddings.md: a subject is exported, by program and by command', async () => {
  const folder = project()
  const keys = [Float32Array.of(1, 2, 3, 4)]
  const vectors = { stages: 2, tokens: 1, k: keys, v: keys }
  await new Subject({ name: 'alice', classWord: 'person', vectors, metadata: {} }).save(
    join(folder, 'alice.safetensors'),
  )
  const [js, sh] = [examples('embeddings', 'js'), examples('embeddings', 'sh')]
  expect([js.length, sh.length]).toEqual([2, 1])
  expect(await runExample(js[1]!, 'js', folder)).toMatchObject({ code: 0, stdout: 'alice 1 1\n' })
  expect((await runExample(sh[0]!, 'sh', folder)).code).toBe(0)
  const { tensors } = readSafetensors(readFileSync(join(folder, 'alice-embedding.safetensors')))
  expect(tensors).toEqual([{ name: 'emb_params', shape: [1, 2], data: Float32Array.of(2, 3) }])
})
