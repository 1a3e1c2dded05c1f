// Self-attention: softmax(Q K^T / sqrt(d)) V over all pixels, without a map that is ever stored.
#pragma once

#include <ATen/ATen.h>

#include "cpu/flash_kernel.h"
#include "runtime/steps.h"

namespace swap {

// q [B, H, N, d], k and v [B, H, M, d] -> [B, H, N, d]. Gradients for all three, once. On a CPU by our own kernels
// where they take the tensors, else LibTorch's scaled_dot_product_attention.
at::Tensor self_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// The kernel that self_attention() takes for these; null: LibTorch's.
const cpu::FlashKernel* flash_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// The same with a given kernel, which must take the tensors.
at::Tensor self_attention_flash(const cpu::FlashKernel& kernel, const at::Tensor& q, const at::Tensor& k,
                                const at::Tensor& v);

// Q, K and V side by side, [B, N, 3 C] in heads of d -> [B, N, C]
at::Tensor self_attention(const at::Tensor& qkv, int64_t heads, Steps* steps = nullptr);

}  // namespace swap
