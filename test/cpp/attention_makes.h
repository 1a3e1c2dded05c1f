// Every make of the op that can be run here: the plain version, the CPU's kernels by instruction set, the CUDA kernels
// over the emulator through the same code that launches them on a GPU, and a GPU where this is the build for CUDA and
// there is one.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "attention/fused_cpu.h"
#include "attention/fused_cuda.h"
#include "attention_cases.h"
#include "cpu/kernels.h"

#if defined(SWAP_KERNELS_EMULATED)
#include "../../cuda/launch.h"
#endif

namespace attention_cases {

struct NamedMake {
  std::string name;
  at::Device device = at::kCPU;
  std::function<bool(const Case&)> takes;
  Make op;
  std::function<swap::AttentionMaps(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)> maps;
  bool same_bits = true;  // promises them for any number of threads, and with or without the maps
};

#if defined(SWAP_KERNELS_EMULATED)
inline const swap::CudaLauncher& emulated_launcher() {
  static constexpr swap::CudaLauncher launcher{
      [](at::Device) { return true; }, &swap::cuda::workspace_bytes, &swap::cuda::workspace_bytes_backward,
      [](const swap::cuda::ForwardParams& params, swap::cuda::Form form, at::Device) {
        swap::cuda::launch(params, form, nullptr);
      },
      [](const swap::cuda::BackwardParams& params, at::Device) { swap::cuda::launch(params, nullptr); }};
  return launcher;
}
#endif

inline NamedMake cuda_make(const std::string& name, const swap::CudaLauncher* launcher, at::Device device) {
  return {name, device, [](const Case& c) { return swap::fused_cuda_shapes(c.q, c.k, c.v, c.k_ref, c.weights); },
          [launcher](const auto& q, const auto& k, const auto& v, const auto& k_ref, const auto& weights) {
            return swap::split_attention_fused_cuda(launcher, q, k, v, k_ref, weights);
          },
          [launcher](const auto& q, const auto& k, const auto& v) {
            return swap::attention_maps_fused_cuda(launcher, q, k, v);
          }};
}

inline std::vector<NamedMake> makes(at::ScalarType dtype) {
  std::vector<NamedMake> found = {{"eager", at::kCPU, [](const Case&) { return true; }, swap::split_attention_eager,
                                   swap::attention_maps_eager, false}};
  if (dtype != at::kHalf) {
    for (const auto* kernel : swap::cpu::kernels(dtype == at::kBFloat16)) {
      found.push_back({std::string("cpu-") + kernel->name, at::kCPU, [](const Case&) { return true; },
                       [kernel](const auto& q, const auto& k, const auto& v, const auto& k_ref, const auto& weights) {
                         return swap::split_attention_fused_cpu(*kernel, q, k, v, k_ref, weights);
                       },
                       [kernel](const auto& q, const auto& k, const auto& v) {
                         return swap::attention_maps_fused_cpu(*kernel, q, k, v);
                       }});
    }
  }
  if (swap::is_cuda_element(dtype)) {
#if defined(SWAP_KERNELS_EMULATED)
    found.push_back(cuda_make("cuda, emulated", &emulated_launcher(), at::kCPU));
#endif
    if (at::hasCUDA() && swap::cuda_launcher()) {
      found.push_back(cuda_make("cuda", swap::cuda_launcher(), at::Device(at::kCUDA, 0)));
    }
  }
  return found;
}

}  // namespace attention_cases
