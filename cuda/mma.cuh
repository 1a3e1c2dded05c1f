// mma.sync: C[16 x 8] += A[16 x K] B[K x 8] by the 32 lanes of a warp, K = 16 or 8, 16-bit operands, fp32 sums.
//
// Which lane holds what, with g = lane / 4 and t = lane % 4:
//   C   c[0], c[1]: row g,     columns 2t, 2t+1        c[2], c[3]: row g + 8, the same columns
//   A   a[0]: row g,     columns 2t, 2t+1              a[1]: row g + 8, the same columns
//       a[2]: row g,     columns 2t+8, 2t+9            a[3]: row g + 8, the same         (K = 16 only)
//   B   b0: rows 2t, 2t+1 of column g                  b1: rows 2t+8, 2t+9 of column g   (K = 16 only)
// C's layout, packed to pairs, is A's: a softmax row goes from one product into the next without leaving registers.
#pragma once

#include "element.cuh"

namespace swap::cuda {

template <class E>
__device__ __forceinline__ void mma_k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDACC__)
  if constexpr (std::is_same_v<E, Bf16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  ::simt::mma<typename E::type>(c, a[0], a[1], a[2], a[3], b0, b1, 16);
#endif
}

template <class E>
__device__ __forceinline__ void mma_k8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
#if defined(__CUDACC__)
  if constexpr (std::is_same_v<E, Bf16>)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(b0));
  else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(b0));
#else
  ::simt::mma<typename E::type>(c, a0, a1, 0, 0, b0, 0, 8);
#endif
}

}  // namespace swap::cuda
