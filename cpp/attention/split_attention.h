// Split cross-attention with the subject-wise attention loss: the op.
//
//   O    [B,H,N,d] = A_t V_t,                            A_t = softmax(s Q K_t^T),  s = 1/sqrt(d)
//   loss [B]       = sum_{h,n,t} w_t (A_t - A_r)^2 / H,  A_r = softmax(s Q K_r^T), a constant: no gradient through it
//
// Every make of the op stands behind these functions: the plain one, the fused ones of cpu/, and the kernels of cuda/.
// The environment's SWAP_ATTENTION=eager asks for the plain one, and for LibTorch's self-attention; eager-cross for the
// plain one alone. It is read once.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <array>
#include <functional>
#include <string>
#include <utility>

namespace swap {

struct SplitAttentionResult {
  at::Tensor out;   // [B,H,N,d], the dtype of q
  at::Tensor loss;  // [B] fp32; undefined without k_ref
};

// q [B,H,N,d], k and v [B,H,L,d], k_ref [1|B,H,L,d] or undefined, weights [L] fp32 or undefined (1 everywhere)
SplitAttentionResult split_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                     const at::Tensor& k_ref = {}, const at::Tensor& weights = {});

// dQ, if it is wanted, dK and dV of out dout + loss dloss; dloss may be undefined. Taken once.
using SplitAttentionGradient =
    std::function<std::array<at::Tensor, 3>(const at::Tensor& dout, const at::Tensor& dloss, bool for_q)>;

// The same without a node in LibTorch's graph, and its way back.
std::pair<SplitAttentionResult, SplitAttentionGradient> split_attention_and_gradient(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& k_ref, const at::Tensor& weights);

struct AttentionMaps {
  at::Tensor out;   // [B,H,N,d], the dtype of q
  at::Tensor maps;  // A_t: [B,H,N,L] fp32
};

// The form that gives the maps themselves, for pictures of attention. No gradient flows through it.
AttentionMaps attention_maps(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);
AttentionMaps attention_maps_eager(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// The plain LibTorch version: the reference that the others are tested against.
SplitAttentionResult split_attention_eager(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                           const at::Tensor& k_ref, const at::Tensor& weights);

// Whether the environment asks for the plain version; for LibTorch's self-attention too.
bool plain_attention_wanted();
bool plain_self_attention_wanted();

// The make that inputs of this kind get: 'eager', 'cuda', or 'cpu-' and the instruction set. Throws SWAP_OPTION_INVALID
// where SWAP_ATTENTION asks for one that is not known.
std::string attention_name(at::Device device, at::ScalarType dtype);

}  // namespace swap
