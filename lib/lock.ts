/** One process at a time: a file that names its owner. */
import { readFile, rm, writeFile } from 'node:fs/promises'
import type { SwapError } from './errors.ts'

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/**
 * Takes a lock and resolves to what gives it back. One that its owner left behind is taken over.
 *
 * @param busy the error for a lock that another process holds
 */
export async function takeLock(path: string, busy: (pid: number) => SwapError): Promise<() => Promise<void>> {
  for (;;) {
    try {
      await writeFile(path, String(process.pid), { flag: 'wx' })
      return () => rm(path, { force: true })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      const pid = Number(await readFile(path, 'utf8').catch(() => ''))
      if (pid && pid !== process.pid && isRunning(pid)) throw busy(pid)
      await rm(path, { force: true })
    }
  }
}
