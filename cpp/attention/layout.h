// How the makes of attention lay out what they give.
#pragma once

#include <ATen/ATen.h>

namespace swap {

// Memory for [B, H, rows, d] with the heads of a row side by side, as the projections before and after have them.
inline at::Tensor rows_with_heads(const at::Tensor& like) {
  return at::empty({like.size(0), like.size(2), like.size(1), like.size(3)}, like.options()).transpose(1, 2);
}

}  // namespace swap
