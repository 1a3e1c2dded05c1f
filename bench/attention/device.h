// What the benchmark asks a GPU for. In the build for CPUs there is none.
#pragma once

#include <ATen/ATen.h>

#include <string>

#if defined(SWAP_CUDA)
#if defined(SWAP_NO_CUDA_MACROS)
#define C10_CUDA_NO_CMAKE_CONFIGURE_FILE  // as in cpp/cuda
#endif
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>

namespace gpu {

inline bool is_there() { return at::hasCUDA() && c10::cuda::device_count() > 0; }
inline void wait() { c10::cuda::device_synchronize(); }
// Bytes of LibTorch's allocator: that tensors have, and the most that they have had.
inline int64_t used() { return c10::cuda::CUDACachingAllocator::getDeviceStats(0).allocated_bytes[0].current; }
inline int64_t peak() { return c10::cuda::CUDACachingAllocator::getDeviceStats(0).allocated_bytes[0].peak; }
inline void reset_peak() { c10::cuda::CUDACachingAllocator::resetPeakStats(0); }
inline std::string name() {
  cudaDeviceProp properties{};
  return cudaGetDeviceProperties(&properties, 0) == cudaSuccess ? properties.name : "a GPU without a name";
}

}  // namespace gpu
#else
namespace gpu {

inline bool is_there() { return false; }
inline void wait() {}
inline int64_t used() { return 0; }
inline int64_t peak() { return 0; }
inline void reset_peak() {}
inline std::string name() { return {}; }

}  // namespace gpu
#endif
