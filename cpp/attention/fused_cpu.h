// The op in one pass over Q, on a CPU: no map of all pixels by all tokens is ever stored.
#pragma once

#include <ATen/ATen.h>

#include "attention/split_attention.h"
#include "cpu/kernel.h"

namespace swap {

// The kernel for these inputs, or null where the plain version has to do: another device, dtype or layout, more than
// 80 tokens.
const cpu::Kernel* fused_cpu_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const at::Tensor& k_ref, const at::Tensor& weights);

// Like split_attention(), by this kernel. What it gives can be differentiated once: that is the op for tests and tools,
// the models take split_attention_and_gradient(). Causal: query n sees the tokens
// 0 .. n alone, of which there are as many as queries.
SplitAttentionResult split_attention_fused_cpu(const cpu::Kernel& kernel, const at::Tensor& q, const at::Tensor& k,
                                               const at::Tensor& v, const at::Tensor& k_ref, const at::Tensor& weights,
                                               bool causal = false);

// The gradients of out dout + loss dloss; either may be undefined. Written to dq, dk and dv, like q, k and v, of which
// dq, or dk and dv, may be undefined.
void split_attention_gradient_fused_cpu(const cpu::Kernel& kernel, const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const at::Tensor& k_ref, const at::Tensor& weights,
                                        bool causal, const at::Tensor& dout, const at::Tensor& dloss,
                                        const at::Tensor& dq, const at::Tensor& dk, const at::Tensor& dv);

AttentionMaps attention_maps_fused_cpu(const cpu::Kernel& kernel, const at::Tensor& q, const at::Tensor& k,
                                       const at::Tensor& v);

}  // namespace swap
