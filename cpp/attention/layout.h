// How attention's tensors lie in memory.
#pragma once

#include <ATen/ATen.h>

#include <array>

namespace swap {

// Memory for [B, H, rows, d] with the heads of a row side by side, as the projections before and after have them.
inline at::Tensor rows_with_heads(const at::Tensor& like) {
  return at::empty({like.size(0), like.size(2), like.size(1), like.size(3)}, like.options()).transpose(1, 2);
}

// Q, K and V of [B, N, 3 heads * d], in which they lie side by side: views [B, heads, N, d]
inline std::array<at::Tensor, 3> split_sides(const at::Tensor& qkv, int64_t heads) {
  const int64_t B = qkv.size(0), N = qkv.size(1), C = qkv.size(2) / 3, d = C / heads, first = qkv.storage_offset();
  const auto side = [&](int64_t i) {
    return qkv.as_strided({B, heads, N, d}, {qkv.stride(0), d, qkv.stride(1), 1}, first + i * C);
  };
  return {side(0), side(1), side(2)};
}

// [B, N, heads * d] -> [B, heads, N, d]
inline at::Tensor split_heads(const at::Tensor& x, int64_t heads) {
  return x.view({x.size(0), x.size(1), heads, x.size(2) / heads}).transpose(1, 2);
}

// [B, heads, N, d] -> [B, N, heads * d]
inline at::Tensor join_heads(const at::Tensor& x) {
  return x.transpose(1, 2).reshape({x.size(0), x.size(2), x.size(1) * x.size(3)});
}

// attend(Q, K, V) of sides as `split_sides` gives them, by views that LibTorch's graph takes back well: [B, N, heads *
// d]
template <class Attend>
at::Tensor attend_sides(const at::Tensor& qkv, int64_t heads, Attend&& attend) {
  const auto sides = qkv.chunk(3, -1);
  return join_heads(attend(split_heads(sides[0], heads), split_heads(sides[1], heads), split_heads(sides[2], heads)));
}

}  // namespace swap
