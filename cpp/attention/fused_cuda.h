// The op by the kernels of cuda/: tensors become params, memory comes from LibTorch, gradients go through autograd.
// Nothing here needs CUDA itself: who launches is given, so tests run the same code over the emulator, and on
// LibTorch's meta device, where tensors have shapes alone, nothing is launched.
#pragma once

#include <ATen/ATen.h>

#include "../../cuda/params.h"
#include "attention/split_attention.h"

namespace swap {

struct CudaLauncher {
  bool (*takes)(at::Device);  // the kernels are built for this device
  size_t (*workspace)(const cuda::Shape&, cuda::Form);
  size_t (*workspace_backward)(const cuda::Shape&);
  // Enqueue on the device's current stream and return.
  void (*forward)(const cuda::ForwardParams&, cuda::Form, at::Device);
  void (*backward)(const cuda::BackwardParams&, at::Device);
};

// The engine's own; null in an engine for CPUs.
const CudaLauncher* cuda_launcher();

// What the kernels compute with: bfloat16 and half.
bool is_cuda_element(at::ScalarType dtype);

// True where the kernels take tensors of these shapes, dtypes and layouts, wherever they lie.
bool fused_cuda_shapes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& k_ref,
                       const at::Tensor& weights);

// True where this engine has kernels for these inputs: on a GPU that they are built for, or on the meta device.
bool fused_cuda_takes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& k_ref,
                      const at::Tensor& weights);

// Like split_attention(). What it gives can be differentiated once. The launcher is not used on the meta device.
SplitAttentionResult split_attention_fused_cuda(const CudaLauncher* launcher, const at::Tensor& q, const at::Tensor& k,
                                                const at::Tensor& v, const at::Tensor& k_ref,
                                                const at::Tensor& weights);
AttentionMaps attention_maps_fused_cuda(const CudaLauncher* launcher, const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v);

}  // namespace swap
