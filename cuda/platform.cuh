// One source, two compilers: nvcc, and a host compiler against the emulator in test/simt.
#pragma once

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#define SWAP_SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]

namespace swap::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// True where the current device has the kernel, compiled or as PTX that its driver can translate, and enough shared
// memory.
template <class P>
bool kernel_runs(void (*kernel)(P), size_t shared) {
  cudaFuncAttributes attributes;
  int device = 0, limit = 0;
  const bool known = cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess &&
                     cudaGetDevice(&device) == cudaSuccess &&
                     cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess;
  if (!known) cudaGetLastError();  // an answer, not an error that the next launch should find
  return known && shared <= static_cast<size_t>(limit);
}

template <class P>
void launch_kernel(void (*kernel)(P), dim3 grid, dim3 block, size_t shared, void* stream, const P& params) {
  if (shared > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
          "split attention: shared memory");
  kernel<<<grid, block, shared, static_cast<cudaStream_t>(stream)>>>(params);
  check(cudaGetLastError(), "split attention: launch");
}

}  // namespace swap::cuda
#else
#include "simt/simt.h"

#define SWAP_SHARED_MEMORY(name) unsigned char* const name = ::simt::shared_memory()

namespace swap::cuda {

template <class P>
bool kernel_runs(void (*)(P), size_t) {
  return true;
}

template <class P>
void launch_kernel(void (*kernel)(P), dim3 grid, dim3 block, size_t shared, void*, const P& params) {
  ::simt::launch(grid, block, shared, [&] { kernel(params); });
}

}  // namespace swap::cuda
#endif
