/** One cache for two programs: what either fetched, the other finds without a network. */
import { spawn } from 'node:child_process'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { locateModel, pull } from '../../lib/hub/index.ts'
import { temporary } from '../libtorch/fixtures.ts'
import { describeParity, python } from '../parity/support.ts'
import { COMMIT, NEEDED, serveHub, type TestHub } from './kit.ts'

let hub: TestHub
let home: string
const reference = { id: 'tiny/model', revision: 'main' }

beforeEach(async () => {
  home = temporary()
  hub = await serveHub(home)
})
afterEach(() => hub.close())

/** What a program of Python prints last, as JSON. */
async function run(program: string, env: NodeJS.ProcessEnv = {}): Promise<unknown> {
  const child = spawn(python!, ['-c', program], {
    env: { PATH: process.env.PATH, HF_HUB_DISABLE_TELEMETRY: '1', HF_HUB_DISABLE_XET: '1', ...hub.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const said: string[] = []
  const complaints: string[] = []
  child.stdout.on('data', (chunk: Buffer) => said.push(chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => complaints.push(chunk.toString()))
  const code = await new Promise((done) => child.on('close', done))
  if (code !== 0) throw new Error(complaints.join(''))
  return JSON.parse(said.join('').trim().split('\n').at(-1)!)
}

describeParity("the hub's cache is shared with huggingface_hub", () => {
  test('what we fetched, Python finds offline', async () => {
    const { path } = await pull(reference, { env: hub.env })
    const found = await run(
      `import json, os
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download
folder = snapshot_download('tiny/model', local_files_only=True)
files = [hf_hub_download('tiny/model', name) for name in ${JSON.stringify(NEEDED)}]
cache = scan_cache_dir()
print(json.dumps([folder, [os.path.relpath(file, folder) for file in files], len(cache.repos), [str(w) for w in cache.warnings]]))`,
      { HF_HUB_OFFLINE: '1', HF_ENDPOINT: 'http://127.0.0.1:9' },
    )
    expect(found).toEqual([path, NEEDED, 1, []])
  })

  test('what Python fetched, we find, and fetch only what it left out', async () => {
    const most = NEEDED.filter((path) => !path.startsWith('vae/'))
    const fetch = (paths: string[]) =>
      run(`import json
from huggingface_hub import hf_hub_download
print(json.dumps([hf_hub_download('tiny/model', name) for name in ${JSON.stringify(paths)}][-1]))`)
    await fetch(most)
    await expect(locateModel('tiny/model', { env: { ...hub.env, HF_HUB_OFFLINE: '1' } })).rejects.toMatchObject({
      code: 'SWAP_HUB_OFFLINE',
    })
    const before = hub.fetched.length
    const { path } = await pull(reference, { env: hub.env })
    expect(hub.fetched.slice(before).sort()).toEqual(NEEDED.filter((name) => name.startsWith('vae/')))
    expect(path.endsWith(COMMIT)).toBe(true)

    home = temporary()
    hub.env.HF_HOME = home
    await fetch(NEEDED)
    const asked = hub.requests.length
    expect((await locateModel('tiny/model', { env: hub.env })).path.startsWith(home)).toBe(true)
    expect(hub.requests).toHaveLength(asked)
  })
})
