// bfloat16 and half on the host, under CUDA's names, rounded to nearest even.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};

namespace simt {

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline float half_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
  if (exponent == 31) return float_of(sign | 0x7f800000 | mantissa << 13);
  if (exponent) return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
  const float x = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -x : x;
}

inline uint16_t float_to_half(float x) {
  const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000;
  const float magnitude = std::fabs(x);
  if (x != x) return 0x7fff;
  if (magnitude >= 65520.f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f) return sign | static_cast<uint32_t>(std::nearbyintf(magnitude * 0x1p24f));
  const uint32_t m = bits_of(magnitude);
  return sign | (((m + 0xfff + (m >> 13 & 1)) >> 13) - (112u << 10));
}

inline uint32_t pack(__nv_bfloat16 low, __nv_bfloat16 high) { return low.bits | uint32_t(high.bits) << 16; }
inline uint32_t pack(__half low, __half high) { return low.bits | uint32_t(high.bits) << 16; }

}  // namespace simt

inline float __bfloat162float(__nv_bfloat16 x) { return simt::float_of(uint32_t(x.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16(float x) {
  const uint32_t bits = simt::bits_of(x);
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline float __half2float(__half x) { return simt::half_to_float(x.bits); }
inline __half __float2half(float x) { return {simt::float_to_half(x)}; }

namespace simt {
inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
inline float to_float(__half x) { return __half2float(x); }
template <class T>
T from_float(float x);
template <>
inline __nv_bfloat16 from_float(float x) {
  return __float2bfloat16(x);
}
template <>
inline __half from_float(float x) {
  return __float2half(x);
}
}  // namespace simt
