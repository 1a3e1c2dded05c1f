// cp.async: 16 bytes from global to shared memory, past the registers, while the thread goes on.
//
// Both addresses are 16-byte aligned. Where `valid` is false nothing is read and 16 zero bytes are written: rows beyond
// the end of a tensor become zeros. A thread may read what it has copied after wait_for_copies(); what others have
// copied after a __syncthreads() that follows.
#pragma once

#include "plant.cuh"

namespace swap::cuda {

__device__ __forceinline__ void copy_chunk(void* shared, const void* global, bool valid) {
#if defined(__CUDACC__)
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
#else
  ::simt::copy_async(shared, global, valid ? 16 : 0);
#endif
}

__device__ __forceinline__ void wait_for_copies() {
  if (planted(Plant::no_wait)) return;
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_all;" ::: "memory");
#else
  ::simt::wait_for_copies();
#endif
}

}  // namespace swap::cuda
