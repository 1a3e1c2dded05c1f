/** `owner/name[@revision]`: a model on the hub. */
import { SwapError } from '../errors.ts'

export interface HubReference {
  /** `owner/name` */
  id: string
  /** A branch, a tag or a commit. */
  revision: string
}

const PART = /^[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?$/

/**
 * The reference that a text is; undefined for what has the form of a path (`./a`, `/a`, `a`, `a/b/c`).
 *
 * @throws SwapError `SWAP_HUB_REFERENCE` for a reference with a revision that cannot be one
 */
export function parseReference(text: string): HubReference | undefined {
  const [, owner = '', name = '', revision] = /^([^/@\\]+)\/([^/@\\]+)(?:@(.*))?$/su.exec(text) ?? []
  // The hub itself allows neither -- nor .. in names: folders of its cache are made of them.
  if (![owner, name].every((part) => PART.test(part) && !/--|\.\./.test(part))) return undefined
  if (revision !== undefined && !isRevision(revision)) {
    throw new SwapError('SWAP_HUB_REFERENCE', `"${text.slice(0, 200)}" names no revision after the @`, {
      hint: 'write owner/name@branch, owner/name@tag or owner/name@commit',
    })
  }
  return { id: `${owner}/${name}`, revision: revision ?? 'main' }
}

/** It becomes a file's name in the cache: nothing that climbs, nothing that is hidden. */
function isRevision(text: string): boolean {
  return text.length <= 200 && text.split('/').every((part) => /^[\w-][\w.+-]*$/.test(part) && !part.includes('..'))
}

/** A commit's full name. */
export function isCommit(text: unknown): text is string {
  return typeof text === 'string' && /^[0-9a-f]{40}$/.test(text)
}
