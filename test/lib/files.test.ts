import { execFileSync } from 'node:child_process'
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { SwapError } from '../../lib/errors.ts'
import { fileError, makeDirectory, readFileLimited, writeFileAtomic } from '../../lib/files.ts'
import { packageRoot } from '../../lib/paths.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'swap-files-'))
})
afterEach(async () => {
  await rm(folder, { recursive: true, force: true })
})

const systemError = (code: string) => Object.assign(new Error(code), { code, syscall: 'write', errno: -1 })

describe('writeFileAtomic', () => {
  test('writes bytes and text, over an older file too', async () => {
    const path = join(folder, 'a.bin')
    await writeFileAtomic(path, new Uint8Array([1, 2, 3]))
    expect([...(await readFile(path))]).toEqual([1, 2, 3])
    await writeFileAtomic(path, 'text')
    expect(await readFile(path, 'utf8')).toBe('text')
    expect(await readdir(folder)).toEqual(['a.bin'])
  })

  test('a folder that is not there', async () => {
    const error = await writeFileAtomic(join(folder, 'no', 'a.bin'), 'x').catch((e: unknown) => e)
    expect(error).toBeInstanceOf(SwapError)
    expect(error).toMatchObject({ code: 'SWAP_FILE_NOT_FOUND', cause: { code: 'ENOENT' } })
    expect((error as Error).message).toContain(join(folder, 'no', 'a.bin'))
  })

  test('a folder in the place of the file leaves no temporary file', async () => {
    await mkdir(join(folder, 'a'))
    await expect(writeFileAtomic(join(folder, 'a'), 'x')).rejects.toMatchObject({ code: 'SWAP_FILE_IS_DIRECTORY' })
    expect(await readdir(folder)).toEqual(['a'])
  })

  test('data that cannot be written leaves the old file and no temporary one', async () => {
    const path = join(folder, 'a.bin')
    await writeFile(path, 'old')
    await expect(writeFileAtomic(path, 5 as unknown as string)).rejects.toThrow()
    expect(await readFile(path, 'utf8')).toBe('old')
    expect(await readdir(folder)).toEqual(['a.bin'])
  })

  test('a process that exits in the middle leaves the old file and no temporary one', async () => {
    const path = join(folder, 'a.bin')
    await writeFile(path, 'old')
    const writing = writeFileAtomic(path, new Uint8Array(64 << 20))
    while ((await readdir(folder)).length === 1) await setImmediate()
    // What process.exit() calls.
    process.listeners('exit').find(({ name }) => name === 'removeUnfinished')!(0)
    expect(await readdir(folder)).toEqual(['a.bin'])
    expect(await readFile(path, 'utf8')).toBe('old')
    await expect(writing).rejects.toMatchObject({ code: 'SWAP_FILE_NOT_FOUND' })
  })

  test.skipIf(process.platform !== 'linux')('a full device', async () => {
    // rename() onto a device's name would replace it, so the write itself is tried: /dev/full is always full
    await symlink('/dev/full', join(folder, 'full'))
    const error = await writeFile(join(folder, 'full'), 'x').catch((e: unknown) => fileError(e, 'full', 'write'))
    expect(error).toMatchObject({ code: 'SWAP_FILE_DISK_FULL', hint: 'free some space, or choose another disk' })
  })

  test.skipIf(process.getuid?.() === 0)('a folder without permission', async () => {
    await chmod(folder, 0o500)
    await expect(writeFileAtomic(join(folder, 'a'), 'x')).rejects.toMatchObject({ code: 'SWAP_FILE_PERMISSION' })
    await chmod(folder, 0o700)
  })

  test.skipIf(process.getuid?.() !== 0 || !canMount())(
    'a full disk leaves the old file and no temporary one',
    async () => {
      const disk = join(folder, 'disk')
      await mkdir(disk)
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', disk])
      try {
        await writeFile(join(disk, 'a'), 'old')
        const error = writeFileAtomic(join(disk, 'a'), new Uint8Array(1 << 20))
        await expect(error).rejects.toMatchObject({ code: 'SWAP_FILE_DISK_FULL' })
        expect(await readFile(join(disk, 'a'), 'utf8')).toBe('old')
        expect(await readdir(disk)).toEqual(['a'])
      } finally {
        execFileSync('umount', [disk])
      }
    },
  )
})

function canMount(): boolean {
  try {
    execFileSync('unshare', ['-m', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

describe('fileError', () => {
  test.each([
    ['EACCES', 'SWAP_FILE_PERMISSION'],
    ['EROFS', 'SWAP_FILE_PERMISSION'],
    ['ENOSPC', 'SWAP_FILE_DISK_FULL'],
    ['ENOTDIR', 'SWAP_FILE_NOT_FOUND'],
    ['EISDIR', 'SWAP_FILE_IS_DIRECTORY'],
    ['EMFILE', 'SWAP_FILE_TOO_MANY_OPEN'],
    ['ENAMETOOLONG', 'SWAP_FILE_NAME'],
    ['EIO', 'SWAP_FILE_FAILED'],
  ])('%s is %s', (system, code) => {
    const cause = systemError(system)
    expect(fileError(cause, 'a/b', 'read')).toMatchObject({ code, cause })
  })

  test('other errors pass through', () => {
    const error = new TypeError('x')
    expect(fileError(error, 'a', 'read')).toBe(error)
  })
})

describe('readFileLimited', () => {
  test('reads up to the limit and not beyond', async () => {
    await writeFile(join(folder, 'a'), 'four')
    expect(Buffer.from(await readFileLimited(join(folder, 'a'), 4)).toString()).toBe('four')
    await expect(readFileLimited(join(folder, 'a'), 3)).rejects.toMatchObject({ code: 'SWAP_FILE_TOO_LARGE' })
  })

  test('names what is missing, and a folder', async () => {
    await expect(readFileLimited(join(folder, 'no'), 9)).rejects.toMatchObject({ code: 'SWAP_FILE_NOT_FOUND' })
    await expect(readFileLimited(folder, 1 << 20)).rejects.toMatchObject({ code: 'SWAP_FILE_IS_DIRECTORY' })
  })
})

test('makeDirectory makes parents, and refuses a file of that name', async () => {
  await makeDirectory(join(folder, 'a', 'b'))
  await makeDirectory(join(folder, 'a', 'b'))
  expect(await readdir(join(folder, 'a'))).toEqual(['b'])
  await writeFile(join(folder, 'file'), '')
  await expect(makeDirectory(join(folder, 'file'))).rejects.toMatchObject({ code: 'SWAP_FILE_EXISTS' })
})

test('packageRoot is the folder of package.json', async () => {
  const json = JSON.parse(await readFile(join(packageRoot(), 'package.json'), 'utf8')) as { name: string }
  expect(json.name).toBe('@swap/native')
})
