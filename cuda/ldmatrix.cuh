// ldmatrix: a warp reads COUNT matrices of 8 x 8 16-bit elements from shared memory, each row 16 aligned bytes.
//
// Lane i gives the address of row i % 8 of matrix i / 8 (with two matrices lanes 16 to 31 give addresses that are not
// read, but must be valid here). Afterwards r[m] of lane l holds, of matrix m,
//   load:             row l / 4, columns 2(l % 4) and 2(l % 4) + 1
//   load_transposed:  rows 2(l % 4) and 2(l % 4) + 1 of column l / 4
// so that rows become A operands and, transposed, rows become B operands (see mma.cuh).
// Eight rows are read at a time: without a bank conflict where they start in eight different 16-byte groups of the 128
// bytes that the banks span.
#pragma once

#include "platform.cuh"

namespace swap::cuda {

template <int COUNT>
__device__ __forceinline__ void load_matrices(uint32_t (&r)[COUNT], const void* row) {
  static_assert(COUNT == 2 || COUNT == 4);
#if defined(__CUDACC__)
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (COUNT == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
#else
  ::simt::ldmatrix(r, COUNT, false, row);
#endif
}

template <int COUNT>
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[COUNT], const void* row) {
  static_assert(COUNT == 2 || COUNT == 4);
#if defined(__CUDACC__)
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (COUNT == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
#else
  ::simt::ldmatrix(r, COUNT, true, row);
#endif
}

}  // namespace swap::cuda
