/** Bits of half precision and bfloat16, one number at a time. Rounding is to nearest, ties to even, as everywhere else. */

const word = new Uint32Array(1)
const real = new Float32Array(word.buffer)

/** The value of a half's bits. */
export function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

/** The bits of the half nearest to a float32's bits. */
export function floatBitsToHalf(bits: number): number {
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude > 0x7f800000) return sign | 0x7e00
  // 65520 and above round to infinity
  if (magnitude >= 0x477ff000) return sign | 0x7c00
  if (magnitude >= 0x38800000) {
    const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1)
    return sign | ((rounded - 0x38000000) >>> 13)
  }
  if (magnitude < 0x33000000) return sign
  // A subnormal: the unit is 2^-24, and float64 holds the quotient exactly.
  word[0] = magnitude
  const units = real[0]! * 2 ** 24
  const floor = Math.floor(units)
  const rest = units - floor
  return sign | (floor + (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? 1 : 0))
}

/** The float32 bits of a bfloat16's bits. */
export function bfloatToFloat(bits: number): number {
  word[0] = bits << 16
  return real[0]!
}
