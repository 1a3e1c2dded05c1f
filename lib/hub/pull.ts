/** Fetching a model from the hub into its cache. */
import { mkdir, stat, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { SwapError } from '../errors.ts'
import { fileError, readFileLimited } from '../files.ts'
import { download } from '../http/download.ts'
import { type Dispatcher, withDispatcher } from '../http/network.ts'
import { takeLock } from '../lock.ts'
import { jsonObject, parseJson } from '../model/json.ts'
import { placeFile, repositoryFolder, snapshotFolder, writeRef } from './cache.ts'
import { type Listing, planFiles, type Variant } from './plan.ts'
import type { HubReference } from './reference.ts'
import { askHub, fileUrl, hubErrors, type Remote, type RemoteFile } from './remote.ts'
import { type HubSettings, hubSettings } from './settings.ts'

export interface PullProgress {
  phase: 'download'
  /** Bytes of all files together, those that were there already too. */
  done: number
  /** 0 while it is not known yet. */
  total: number
  /** The file that is fetched. */
  file: string
}

export interface PullOptions {
  /** Default `'full'`. */
  variant?: Variant | undefined
  env?: NodeJS.ProcessEnv | undefined
  signal?: AbortSignal | undefined
  onProgress?: ((progress: PullProgress) => void) | undefined
  /** See `retrying`. */
  retryDelay?: number | undefined
}

export interface Pulled {
  path: string
  commit: string
  files: number
  /** Bytes of the model, and those of them that were fetched now. */
  size: number
  fetched: number
}

/**
 * Gets what is needed of a model that is not in the cache yet: resumable, each file verified by its checksum.
 *
 * The revision's name points at the new files only when all are there: whoever looks meanwhile sees the old ones.
 *
 * @throws SwapError `SWAP_HUB_…`, `SWAP_MODEL_PICKLE`, `SWAP_MODEL_SHARD`, `SWAP_FILE_…`; the signal's reason
 */
export async function pull(reference: HubReference, options: PullOptions = {}): Promise<Pulled> {
  const settings = await hubSettings(options.env)
  const { cache } = settings
  if (settings.offline) {
    throw new SwapError('SWAP_HUB_OFFLINE', `${reference.id} is not fetched: HF_HUB_OFFLINE is set`, {
      hint: 'unset HF_HUB_OFFLINE',
    })
  }
  const locks = join(cache, '.locks', `models--${reference.id.replaceAll('/', '--')}`)
  try {
    await mkdir(locks, { recursive: true })
    const unlock = await takeLock(
      join(locks, 'swap.lock'),
      (pid) =>
        new SwapError('SWAP_HUB_BUSY', `${reference.id} is being fetched by another process (${pid})`, {
          hint: 'wait for it to end',
        }),
    )
    try {
      return await withDispatcher(undefined, (dispatcher) => new Pull(reference, settings, dispatcher, options).run())
    } finally {
      await unlock()
    }
  } catch (error) {
    options.signal?.throwIfAborted()
    throw fileError(error, cache, 'write')
  }
}

const JSON_LIMIT = 16 * 2 ** 20

class Pull {
  readonly #reference: HubReference
  readonly #settings: HubSettings
  readonly #dispatcher: Dispatcher
  readonly #options: PullOptions
  #fetched = 0
  #done = 0
  #total = 0

  constructor(reference: HubReference, settings: HubSettings, dispatcher: Dispatcher, options: PullOptions) {
    this.#reference = reference
    this.#settings = settings
    this.#dispatcher = dispatcher
    this.#options = options
  }

  async run(): Promise<Pulled> {
    const { signal, retryDelay, variant = 'full' } = this.#options
    const { cache } = this.#settings
    const { id } = this.#reference
    const remote = await askHub(this.#settings, this.#reference, { dispatcher: this.#dispatcher, signal, retryDelay })
    const { commit, files } = remote
    const plan = await planFiles(this.#listing(remote), variant)
    const wanted = plan.map((path) => files.get(path)!)
    this.#total = wanted.reduce((sum, { size }) => sum + size, 0)
    const missing: RemoteFile[] = []
    for (const file of wanted) {
      if (await this.#present(remote, file)) this.#done += file.size
      else missing.push(file)
    }
    await this.#requireSpace(missing.reduce((sum, { size }) => sum + size, 0))
    for (const file of missing) await this.#fetch(remote, file)
    await writeRef(cache, this.#reference, commit)
    return {
      path: snapshotFolder(cache, id, commit),
      commit,
      files: wanted.length,
      size: this.#total,
      fetched: this.#fetched,
    }
  }

  #listing(remote: Remote): Listing {
    const { files } = remote
    return {
      id: this.#reference.id,
      has: (path) => files.has(path),
      names: (folder) =>
        [...files.keys()].flatMap((path) => {
          const name = folder === '' ? path : path.startsWith(`${folder}/`) ? path.slice(folder.length + 1) : '/'
          return name.includes('/') ? [] : [name]
        }),
      json: async (path) => await this.#json(remote, files.get(path)!),
    }
  }

  async #json(remote: Remote, file: RemoteFile): Promise<ReadonlyMap<string, unknown>> {
    const { id, revision } = this.#reference
    const malformed = (what: string, cause?: unknown): SwapError =>
      hubErrors(id, revision, false).malformed(this.#settings.endpoint, what, cause)
    if (file.size > JSON_LIMIT) throw malformed(`${file.path} has ${file.size} bytes`)
    if (!(await this.#present(remote, file))) await this.#fetch(remote, file)
    let value: unknown
    try {
      value = parseJson(new TextDecoder().decode(await readFileLimited(this.#pointer(remote, file), JSON_LIMIT)))
    } catch (cause) {
      throw malformed(`${file.path} is not JSON`, cause)
    }
    const object = jsonObject(value)
    if (!object) throw malformed(`${file.path} holds no JSON object`)
    return object
  }

  #pointer({ commit }: Remote, { path }: RemoteFile): string {
    return join(snapshotFolder(this.#settings.cache, this.#reference.id, commit), ...path.split('/'))
  }

  async #present(remote: Remote, file: RemoteFile): Promise<boolean> {
    return (await sizeOf(this.#pointer(remote, file))) === file.size
  }

  /** A blob that an earlier revision or Python fetched is taken as it is. */
  async #fetch(remote: Remote, file: RemoteFile): Promise<void> {
    const { signal, onProgress, retryDelay } = this.#options
    const { authorization, cache, symlinks } = this.#settings
    const { id, revision } = this.#reference
    const { path, size, checksum } = file
    signal?.throwIfAborted()
    const blobs = join(repositoryFolder(cache, id), 'blobs')
    const blob = join(blobs, checksum.hex)
    const fresh = (await sizeOf(blob)) !== size
    if (fresh) {
      await mkdir(blobs, { recursive: true })
      await download({
        url: fileUrl(this.#settings, id, remote.commit, path),
        path: blob,
        checksum,
        size,
        errors: hubErrors(id, revision, authorization !== undefined),
        authorization,
        dispatcher: this.#dispatcher,
        signal,
        retryDelay,
        // What is asked for before the plan stands has no total yet.
        onProgress: (done) =>
          onProgress?.({ phase: 'download', done: this.#done + done, total: this.#total, file: path }),
      })
      this.#fetched += size
    }
    await placeFile(blob, this.#pointer(remote, file), symlinks, fresh)
    if (this.#total > 0) this.#done += size
  }

  async #requireSpace(bytes: number): Promise<void> {
    const { bavail, bsize } = await statfs(this.#settings.cache)
    if (bavail * bsize >= bytes) return
    const gb = (value: number): string => `${(value / 1e9).toFixed(1)} GB`
    const left = `${this.#settings.cache} has ${gb(bavail * bsize)} left`
    throw new SwapError('SWAP_HUB_DISK', `${this.#reference.id} takes ${gb(bytes)}, and ${left}`, {
      hint: 'free some space, or set HF_HUB_CACHE to a folder on another disk',
    })
  }
}

async function sizeOf(path: string): Promise<number | undefined> {
  return (await stat(path).catch(() => undefined))?.size
}
