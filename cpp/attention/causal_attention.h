// The attention of text encoders: a token sees itself and those before it.
#pragma once

#include <ATen/ATen.h>

#include "runtime/steps.h"

namespace swap {

// q, k, v [B, H, L, d] -> softmax(Q K^T / sqrt(d)) V, [B, H, L, d] in their dtype. Maps are float32. On a CPU by the
// kernel of split cross-attention where it takes the tensors; gradients for all three, once.
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// Q, K and V side by side, [B, L, 3 C] in heads of d -> [B, L, C]
at::Tensor causal_attention(const at::Tensor& qkv, int64_t heads, Steps* steps = nullptr);

// The plain LibTorch version. Few tokens: for those it is faster than LibTorch's fused one, there and back.
at::Tensor causal_attention_eager(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

}  // namespace swap
