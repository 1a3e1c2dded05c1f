// bfloat16 and half on the host, under CUDA's names.
#pragma once

#include "bits.h"

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) { return bits::bf16_to_float(x.bits); }
inline __nv_bfloat16 __float2bfloat16(float x) { return {bits::float_to_bf16(x)}; }
inline float __half2float(__half x) { return bits::half_to_float(x.bits); }
inline __half __float2half(float x) { return {bits::float_to_half(x)}; }

namespace simt {

inline uint32_t pack(__nv_bfloat16 low, __nv_bfloat16 high) { return low.bits | uint32_t(high.bits) << 16; }
inline uint32_t pack(__half low, __half high) { return low.bits | uint32_t(high.bits) << 16; }
inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
inline float to_float(__half x) { return __half2float(x); }

}  // namespace simt
