// The two 16-bit element types, and how two of them travel: always as a pair in one 32-bit register, the lower column
// in the lower half. That is the unit of mma operands, ldmatrix results and stores.
#pragma once

#include "platform.cuh"

namespace swap::cuda {

struct Bf16 {
  using type = __nv_bfloat16;
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
#if defined(__CUDACC__)
    uint32_t pair;  // cvt takes the upper half first
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return ::simt::pack(__float2bfloat16(low), __float2bfloat16(high));
#endif
  }
};

struct Fp16 {
  using type = __half;
  static __device__ __forceinline__ uint32_t pack(float low, float high) {
#if defined(__CUDACC__)
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return ::simt::pack(__float2half(low), __float2half(high));
#endif
  }
};

// Stores a pair in shared or global memory; `to` is 4-byte aligned.
template <class T>
__device__ __forceinline__ void store_pair(T* to, uint32_t pair) {
#if !defined(__CUDACC__)
  ::simt::note_store(to, 4);
#endif
  *reinterpret_cast<uint32_t*>(to) = pair;
}

}  // namespace swap::cuda
