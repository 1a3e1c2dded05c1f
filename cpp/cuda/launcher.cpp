// The one place where LibTorch's CUDA and the kernels meet. Compiled into the engine for CUDA only; of CUDA it needs
// the runtime's headers, which nvcc brings.
#if defined(SWAP_NO_CUDA_MACROS)
#define C10_CUDA_NO_CMAKE_CONFIGURE_FILE  // the CPU build of LibTorch has these headers, without what its build writes
#endif
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

#include "../../cuda/launch.h"
#include "attention/fused_cuda.h"

namespace swap {
namespace {

// Asked once for each device, for every attention layer asks.
bool takes(at::Device device) {
  static std::mutex mutex;
  static std::map<int, bool> known;
  const auto index = device.has_index() ? device.index() : c10::cuda::current_device();
  const std::lock_guard lock(mutex);
  const auto [found, fresh] = known.try_emplace(index, false);
  if (fresh) {
    const c10::cuda::CUDAGuard guard(index);
    found->second = cuda::runs_here();
  }
  return found->second;
}

void* current_stream(at::Device device) { return c10::cuda::getCurrentCUDAStream(device.index()).stream(); }

void forward(const cuda::ForwardParams& params, cuda::Form form, at::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  cuda::launch(params, form, current_stream(device));
}

void backward(const cuda::BackwardParams& params, at::Device device) {
  const c10::cuda::CUDAGuard guard(device);
  cuda::launch(params, current_stream(device));
}

constexpr CudaLauncher kLauncher{&takes, &cuda::workspace_bytes, &cuda::workspace_bytes_backward, &forward, &backward};

}  // namespace

const CudaLauncher* cuda_launcher() { return &kLauncher; }

}  // namespace swap
