// The layers that all models are made of: plain structs of frozen tensors, read from a scope. Given steps, they note
// their way back.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "attention/layout.h"
#include "models/convolution.h"
#include "models/linear.h"
#include "models/norm.h"
#include "runtime/fresh.h"
#include "runtime/steps.h"
#include "weights/store.h"

namespace swap {

inline PackedWeights::Ptr keep_packed(const Scope& scope) {
  return scope.arena() ? c10::make_intrusive<PackedWeights>(scope.arena()) : PackedWeights::Ptr();
}

struct Linear {
  at::Tensor weight, bias;  // [out, in], [out] or undefined
  PackedWeights::Ptr packed;

  Linear() = default;
  Linear(const Scope& scope, int64_t in, int64_t out, bool with_bias = true)
      : weight(scope.read("weight", {out, in})),
        bias(with_bias ? scope.read("bias", {out}) : at::Tensor()),
        packed(keep_packed(scope)) {}

  // Several of them side by side, one product for all: [out of the first, of the second, ...].
  Linear(const Scope& scope, const std::vector<std::string>& names, int64_t in, int64_t out, bool with_bias)
      : weight(scope.read_rows(each(names, ".weight"), {out, in})),
        bias(with_bias ? scope.read_rows(each(names, ".bias"), {out}) : at::Tensor()),
        packed(keep_packed(scope)) {}

  // `added`: to what comes out, and none of the way back that is noted here.
  at::Tensor operator()(const at::Tensor& x, Steps* steps = nullptr, const at::Tensor& added = {}) const {
    if (noted(steps)) steps->then([this](const at::Tensor& dy) { return linear_gradient(dy, weight, packed.get()); });
    return linear(x, weight, bias, packed.get(), added);
  }

 private:
  static std::vector<std::string> each(std::vector<std::string> names, const char* end) {
    for (auto& name : names) name += end;
    return names;
  }
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

  // `added`: as of Linear.
  at::Tensor operator()(const at::Tensor& x, Steps* steps = nullptr, const at::Tensor& added = {}) const {
    if (noted(steps)) steps->then(way_back(x));
    return convolve(x, weight, bias, stride, padding, packed.get(), added);
  }
  Steps::Step way_back(const at::Tensor& x) const {
    return [this, shape = x.sizes().vec()](const at::Tensor& dy) {
      return convolution_gradient(dy, shape, weight, stride, padding, packed.get());
    };
  }
};

struct GroupNorm {
  at::Tensor weight, bias;
  int64_t groups = 1;
  double eps = 1e-5;

  GroupNorm() = default;
  GroupNorm(const Scope& scope, int64_t channels, int64_t groups, double eps)
      : weight(scope.read("weight", {channels})), bias(scope.read("bias", {channels})), groups(groups), eps(eps) {}

  at::Tensor operator()(const at::Tensor& x, Steps* steps = nullptr) const {
    return group_norm(x, groups, weight, bias, eps, false, steps);
  }
  // With SiLU behind it.
  at::Tensor activated(const at::Tensor& x, Steps* steps = nullptr) const {
    return group_norm(x, groups, weight, bias, eps, true, steps);
  }
};

struct LayerNorm {
  at::Tensor weight, bias;
  double eps = 1e-5;

  LayerNorm() = default;
  LayerNorm(const Scope& scope, int64_t width, double eps = 1e-5)
      : weight(scope.read("weight", {width})), bias(scope.read("bias", {width})), eps(eps) {}

  at::Tensor operator()(const at::Tensor& x, Steps* steps = nullptr) const { return to(x.scalar_type(), x, steps); }
  // In another type.
  at::Tensor to(at::ScalarType dtype, const at::Tensor& x, Steps* steps = nullptr) const {
    return layer_norm(x, weight, bias, eps, dtype, steps);
  }
};

// [b, ...] -> [B, ...], the whole of it again and again
inline at::Tensor repeat_to(const at::Tensor& x, int64_t B) {
  return x.size(0) == B ? x : at::cat(std::vector<at::Tensor>(B / x.size(0), x));  // keeps the layout
}

inline at::Tensor cast(const at::Tensor& x, at::ScalarType dtype, Steps* steps = nullptr) {
  const auto from = x.scalar_type();
  if (from == dtype) return x;
  if (noted(steps)) steps->then([from](const at::Tensor& dy) { return dy.to(from); });
  return x.to(dtype);
}

// [B, C, h, w] channels-last -> [B, h w, C], and back: views
inline at::Tensor rows_of_picture(const at::Tensor& x) {
  const int64_t B = x.size(0), C = x.size(1), h = x.size(2), w = x.size(3);
  const bool together = h == 1 || x.stride(2) == w * x.stride(3);
  if (!together || in_graph(x)) return x.permute({0, 2, 3, 1}).reshape({B, h * w, C});
  return view_of(x, {B, h * w, C}, {x.stride(0), x.stride(3), x.stride(1)});
}
inline at::Tensor picture_of_rows(const at::Tensor& rows, int64_t h, int64_t w) {
  const int64_t B = rows.size(0), C = rows.size(2), step = rows.stride(1);
  TORCH_CHECK(h * w == rows.size(1), "a picture of ", h, " x ", w, " from ", rows.size(1), " rows");
  if (in_graph(rows)) return rows.view({B, h, w, C}).permute({0, 3, 1, 2});
  return view_of(rows, {B, C, h, w}, {rows.stride(0), rows.stride(2), w * step, step});
}

}  // namespace swap
