// How attention's tensors lie in memory.
#pragma once

#include <ATen/ATen.h>

#include <array>

#include "runtime/fresh.h"

namespace swap {

// Memory for [B, H, rows, d] with the heads of a row side by side, as the projections before and after have them.
inline at::Tensor rows_with_heads(const at::Tensor& like) {
  const int64_t B = like.size(0), H = like.size(1), rows = like.size(2), d = like.size(3);
  const auto x = fresh(like, {B, rows, H, d});
  x.unsafeGetTensorImpl()->set_sizes_and_strides(at::IntArrayRef({B, H, rows, d}),
                                                 at::IntArrayRef({rows * H * d, d, H * d, 1}));
  return x;
}

// Q, K and V of [B, N, 3 heads * d], in which they lie side by side: views [B, heads, N, d]
inline std::array<at::Tensor, 3> split_sides(const at::Tensor& qkv, int64_t heads) {
  const int64_t B = qkv.size(0), N = qkv.size(1), C = qkv.size(2) / 3, d = C / heads, first = qkv.storage_offset();
  TORCH_CHECK(3 * heads * d == qkv.size(2), "Q, K and V of ", heads, " heads in ", qkv.size(2), " channels");
  const auto side = [&](int64_t i) {
    return view_of(qkv, {B, heads, N, d}, {qkv.stride(0), d, qkv.stride(1), 1}, first + i * C);
  };
  return {side(0), side(1), side(2)};
}

// [B, N, heads * d] -> [B, heads, N, d]
inline at::Tensor split_heads(const at::Tensor& x, int64_t heads) {
  const int64_t B = x.size(0), N = x.size(1), d = x.size(2) / heads, step = x.stride(2);
  TORCH_CHECK(heads * d == x.size(2), heads, " heads of ", x.size(2), " channels");
  if (in_graph(x)) return x.view({B, N, heads, d}).transpose(1, 2);
  return view_of(x, {B, heads, N, d}, {x.stride(0), d * step, x.stride(1), step});
}

// [B, heads, N, d] -> [B, N, heads * d]
inline at::Tensor join_heads(const at::Tensor& x) {
  const int64_t B = x.size(0), H = x.size(1), N = x.size(2), d = x.size(3), step = x.stride(3);
  const bool together = H == 1 || x.stride(1) == d * step;
  if (!together || in_graph(x)) return x.transpose(1, 2).reshape({B, N, H * d});
  return view_of(x, {B, N, H * d}, {x.stride(0), x.stride(2), step});
}

// attend(Q, K, V) of sides as `split_sides` gives them, by views that LibTorch's graph takes back well: [B, N, heads *
// d]
template <class Attend>
at::Tensor attend_sides(const at::Tensor& qkv, int64_t heads, Attend&& attend) {
  const auto sides = qkv.chunk(3, -1);
  return join_heads(attend(split_heads(sides[0], heads), split_heads(sides[1], heads), split_heads(sides[2], heads)));
}

}  // namespace swap
