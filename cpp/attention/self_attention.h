// Self-attention: softmax(Q K^T / sqrt(d)) V over all pixels, without a map that is ever stored.
#pragma once

#include <ATen/ATen.h>

#include <array>

#include "cpu/flash_kernel.h"
#include "runtime/steps.h"

namespace swap {

// Q, K and V side by side, [B, N, 3 C] in heads of d -> [B, N, C]. On a CPU by our own kernels where they take the
// tensors, else LibTorch's scaled_dot_product_attention.
at::Tensor self_attention(const at::Tensor& qkv, int64_t heads, Steps* steps = nullptr);

// q [B, H, N, d], k and v [B, H, M, d] -> [B, H, N, d], the same way. Without gradients.
at::Tensor self_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// The kernel that self_attention() takes for these; null: LibTorch's.
const cpu::FlashKernel* flash_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// What the way back wants of the way forth.
struct Flashed {
  at::Tensor q, k, v, out;
  at::Tensor lse;  // [B H, N rounded up] fp32; undefined where nothing is kept
};

// The same with a given kernel, which must take the tensors.
Flashed self_attention_flash(const cpu::FlashKernel& kernel, const at::Tensor& q, const at::Tensor& k,
                             const at::Tensor& v, bool keep);
// dout like out; into `gradient`: dQ, dK, dV.
void self_attention_flash_gradient(const cpu::FlashKernel& kernel, const Flashed& kept, const at::Tensor& dout,
                                   const std::array<at::Tensor, 3>& gradient);

}  // namespace swap
