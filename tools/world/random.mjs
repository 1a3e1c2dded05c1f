// Random numbers that are the same on every machine: everything drawn follows from one integer seed.

/** A generator of numbers in [0, 1) (mulberry32). */
export function randomFrom(seed) {
  let state = (Math.imul(seed, 2654435761) + 12345) >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
  for (let i = 0; i < 3; i++) next()
  return next
}

export const pick = (random, list) => list[Math.floor(random() * list.length)]

/** A key of `weights`, drawn in proportion to its value. */
export function pickWeighted(random, weights) {
  const entries = Object.entries(weights)
  let rest = random() * entries.reduce((sum, [, weight]) => sum + weight, 0)
  for (const [key, weight] of entries) {
    rest -= weight
    if (rest < 0) return key
  }
  return entries[0][0]
}

export const between = (random, low, high) => low + random() * (high - low)

/** A well-mixed 32-bit hash of a string, for rules such as "every tenth combination". */
export function hash(text) {
  let h = 2166136261
  for (const c of text) h = Math.imul(h ^ c.charCodeAt(0), 16777619)
  h = Math.imul(h ^ (h >>> 13), 0x5bd1e995)
  return (h ^ (h >>> 15)) >>> 0
}
