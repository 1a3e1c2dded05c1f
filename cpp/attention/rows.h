// Tensors as the attention kernels on a CPU take them: rows of numbers that lie together.
#pragma once

#include <ATen/ATen.h>

#include "cpu/kernel.h"

namespace swap {

inline at::Tensor dense_rows(const at::Tensor& x) { return x.stride(-1) == 1 || x.size(-1) == 1 ? x : x.contiguous(); }

// Of [B, H, rows, d] with dense rows. A batch of one serves for any.
inline cpu::Rows<const void> rows_of(const at::Tensor& x) {
  return {x.const_data_ptr(), x.size(0) == 1 ? 0 : x.stride(0), x.stride(1), x.stride(2)};
}

inline cpu::Rows<void> mutable_rows_of(const at::Tensor& x) {
  return {x.mutable_data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}

}  // namespace swap
