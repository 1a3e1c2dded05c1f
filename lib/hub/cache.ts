/**
 * The hub's cache folder, as Python's huggingface_hub lays it out, so that either finds what the other fetched:
 *
 *     models--owner--name/blobs/<checksum>                   the bytes
 *     models--owner--name/snapshots/<commit>/<path>          links to them
 *     models--owner--name/refs/<revision>                    the commit that a branch or a tag was last
 */
import { readdirSync, statSync } from 'node:fs'
import { copyFile, mkdir, readdir, readFile, rename, rm, stat, symlink } from 'node:fs/promises'
import { dirname, join, relative } from 'node:path'
import { readFileLimited, writeFileAtomic } from '../files.ts'
import { jsonObject, parseJson } from '../model/json.ts'
import { type Listing, planFiles } from './plan.ts'
import { type HubReference, isCommit } from './reference.ts'

const JSON_LIMIT = 16 * 2 ** 20

/** The folder of one repository. */
export function repositoryFolder(cache: string, id: string): string {
  return join(cache, `models--${id.replaceAll('/', '--')}`)
}

/** The commit that a revision was when it was last asked for; undefined where it never was. */
export async function cachedCommit(cache: string, { id, revision }: HubReference): Promise<string | undefined> {
  if (isCommit(revision as unknown)) return revision
  const ref = join(repositoryFolder(cache, id), 'refs', ...revision.split('/'))
  const commit = (await readFile(ref, 'utf8').catch(() => '')).trim()
  return isCommit(commit) ? commit : undefined
}

/** The folder of a revision's files that is whole, with its commit. */
export async function findSnapshot(
  cache: string,
  reference: HubReference,
): Promise<{ path: string; commit: string } | undefined> {
  const commit = await cachedCommit(cache, reference)
  if (commit === undefined) return undefined
  const path = snapshotFolder(cache, reference.id, commit)
  return (await isWhole(reference.id, path)) ? { path, commit } : undefined
}

export function snapshotFolder(cache: string, id: string, commit: string): string {
  return join(repositoryFolder(cache, id), 'snapshots', commit)
}

/** All that is needed to open the model is there. */
async function isWhole(id: string, path: string): Promise<boolean> {
  return await planFiles(folderListing(id, path), 'full').then(
    () => true,
    () => false,
  )
}

/** What lies in a snapshot's folder; a link to nothing is nothing. */
export function folderListing(id: string, root: string): Listing {
  return {
    id,
    has: (path) => statSync(join(root, path), { throwIfNoEntry: false })?.isFile() === true,
    names: (folder) => readdirSync(join(root, folder)),
    json: async (path) => {
      const bytes = await readFileLimited(join(root, path), JSON_LIMIT)
      return jsonObject(parseJson(new TextDecoder().decode(bytes))) ?? new Map()
    },
  }
}

/**
 * Puts a blob into a snapshot: as a link, or where links are refused as the file itself.
 *
 * @param fresh nothing else points at the blob: then it need not lie on the disk twice
 */
export async function placeFile(blob: string, pointer: string, symlinks: boolean, fresh: boolean): Promise<void> {
  await mkdir(dirname(pointer), { recursive: true })
  await rm(pointer, { force: true })
  if (symlinks) {
    const refused = await symlink(relative(dirname(pointer), blob), pointer).catch((error: unknown) => error)
    if (refused === undefined) return
  }
  await (fresh ? rename(blob, pointer) : copyFile(blob, pointer))
}

/** Notes which commit a branch or a tag is. */
export async function writeRef(cache: string, { id, revision }: HubReference, commit: string): Promise<void> {
  if (revision === commit) return
  const ref = join(repositoryFolder(cache, id), 'refs', ...revision.split('/'))
  await mkdir(dirname(ref), { recursive: true })
  await writeFileAtomic(ref, commit)
}

/** A model that lies in the cache. */
export interface CachedModel {
  /** As it is opened: `owner/name`, with `@revision` unless that is main. */
  model: string
  path: string
  /** Of its files in the cache, in bytes. */
  size: number
  /** False where files are missing: `swap pull` goes on. */
  whole: boolean
}

/** Every model in the diffusers layout in the cache, by name. */
export async function listCache(cache: string): Promise<CachedModel[]> {
  const models: CachedModel[] = []
  for (const folder of (await readdir(cache).catch(() => [])).sort()) {
    const [, id] = /^models--(.+)$/.exec(folder) ?? []
    if (id === undefined) continue
    const name = id.replace('--', '/')
    const revisions = await readRefs(join(cache, folder, 'refs'))
    for (const commit of (await readdir(join(cache, folder, 'snapshots')).catch(() => [])).sort()) {
      const path = join(cache, folder, 'snapshots', commit)
      if (!isCommit(commit) || !folderListing(name, path).has('model_index.json')) continue
      const names = revisions.get(commit) ?? [commit]
      const [size, whole] = await Promise.all([folderSize(path), isWhole(name, path)])
      for (const revision of names) {
        models.push({ model: revision === 'main' ? name : `${name}@${revision}`, path, size, whole })
      }
    }
  }
  return models
}

/** Revisions by commit. */
async function readRefs(folder: string): Promise<Map<string, string[]>> {
  const refs = new Map<string, string[]>()
  const files = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => [])
  for (const file of files) {
    if (!file.isFile()) continue
    const path = join(file.parentPath, file.name)
    const commit = (await readFile(path, 'utf8').catch(() => '')).trim()
    const revision = relative(folder, path).replaceAll('\\', '/')
    refs.set(commit, [...(refs.get(commit) ?? []), revision])
  }
  return refs
}

/** Bytes of all files below a folder. */
export async function folderSize(folder: string): Promise<number> {
  let size = 0
  for (const file of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (file.isDirectory()) continue
    size += (await stat(join(file.parentPath, file.name)).catch(() => undefined))?.size ?? 0
  }
  return size
}
