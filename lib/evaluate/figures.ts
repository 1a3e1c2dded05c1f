/** Means with intervals. */

/** A mean and the interval that it lies in with 95 % confidence. */
export interface Estimate {
  mean: number
  low: number
  high: number
  /** Of how many values. */
  count: number
}

const RESAMPLES = 2000

/** Small and the same everywhere, so that the same values give the same interval. */
function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

const meanOf = (groups: readonly (readonly number[])[]): { mean: number; count: number } => {
  let [sum, count] = [0, 0]
  for (const group of groups) for (const value of group) [sum, count] = [sum + value, count + 1]
  return { mean: sum / count, count }
}

/**
 * The mean of all values, and its interval by drawing whole groups again and again: pictures of one subject are not
 * independent of each other. Undefined where there is no value.
 */
export function estimate(groups: readonly (readonly number[])[]): Estimate | undefined {
  const { mean, count } = meanOf(groups)
  if (count === 0) return undefined
  const random = generator(1)
  const means: number[] = []
  for (let k = 0; k < RESAMPLES; k += 1) {
    const drawn = meanOf(groups.map(() => groups[Math.floor(random() * groups.length)]!))
    if (drawn.count > 0) means.push(drawn.mean)
  }
  means.sort((a, b) => a - b)
  const at = (share: number): number => means[Math.min(means.length - 1, Math.floor(share * means.length))]!
  return { mean, low: at(0.025), high: at(0.975), count }
}
