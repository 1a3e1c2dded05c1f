// The layers that all models are made of: plain structs of frozen tensors, read from a scope.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <vector>

#include "models/convolution.h"
#include "models/linear.h"
#include "models/norm.h"
#include "weights/store.h"

namespace swap {

inline PackedWeights::Ptr keep_packed(const Scope& scope) {
  return scope.small() ? c10::make_intrusive<PackedWeights>() : PackedWeights::Ptr();
}

struct Linear {
  at::Tensor weight, bias;  // [out, in], [out] or undefined
  PackedWeights::Ptr packed;

  Linear() = default;
  Linear(const Scope& scope, int64_t in, int64_t out, bool with_bias = true)
      : weight(scope.read("weight", {out, in})),
        bias(with_bias ? scope.read("bias", {out}) : at::Tensor()),
        packed(keep_packed(scope)) {}

  at::Tensor operator()(const at::Tensor& x) const { return linear(x, weight, bias, packed); }
};

struct Conv2d {
  at::Tensor weight, bias;  // [out, in, kernel, kernel] channels-last, [out]
  int64_t stride = 1, padding = 0;
  PackedWeights::Ptr packed;

  Conv2d() = default;
  Conv2d(const Scope& scope, int64_t in, int64_t out, int64_t kernel, int64_t stride = 1, int64_t padding = 0)
      : weight(scope.read("weight", {out, in, kernel, kernel}, at::MemoryFormat::ChannelsLast)),
        bias(scope.read("bias", {out})),
        stride(stride),
        padding(padding),
        packed(keep_packed(scope)) {}

  at::Tensor operator()(const at::Tensor& x) const { return convolve(x, weight, bias, stride, padding, packed); }
};

struct GroupNorm {
  at::Tensor weight, bias;
  int64_t groups = 1;
  double eps = 1e-5;

  GroupNorm() = default;
  GroupNorm(const Scope& scope, int64_t channels, int64_t groups, double eps)
      : weight(scope.read("weight", {channels})), bias(scope.read("bias", {channels})), groups(groups), eps(eps) {}

  at::Tensor operator()(const at::Tensor& x) const { return group_norm(x, groups, weight, bias, eps, false); }
  // With SiLU behind it.
  at::Tensor activated(const at::Tensor& x) const { return group_norm(x, groups, weight, bias, eps, true); }
};

struct LayerNorm {
  at::Tensor weight, bias;
  double eps = 1e-5;

  LayerNorm() = default;
  LayerNorm(const Scope& scope, int64_t width, double eps = 1e-5)
      : weight(scope.read("weight", {width})), bias(scope.read("bias", {width})), eps(eps) {}

  at::Tensor operator()(const at::Tensor& x) const { return at::layer_norm(x, {weight.size(0)}, weight, bias, eps); }
};

// a + b, in the memory of `a`, which nobody else may have, where no gradient is wanted
inline at::Tensor sum_into(at::Tensor a, const at::Tensor& b) {
  return c10::GradMode::is_enabled() ? a + b : a.add_(b);
}

// [b, ...] -> [B, ...], the whole of it again and again
inline at::Tensor repeat_to(const at::Tensor& x, int64_t B) {
  return x.size(0) == B ? x : at::cat(std::vector<at::Tensor>(B / x.size(0), x));  // keeps the layout
}

// [B, N, heads * d] -> [B, heads, N, d]
inline at::Tensor split_heads(const at::Tensor& x, int64_t heads) {
  return x.view({x.size(0), x.size(1), heads, x.size(2) / heads}).transpose(1, 2);
}

// [B, heads, N, d] -> [B, N, heads * d]
inline at::Tensor join_heads(const at::Tensor& x) {
  return x.transpose(1, 2).reshape({x.size(0), x.size(2), x.size(1) * x.size(3)});
}

}  // namespace swap
