// Tensors and views made directly. LibTorch's own ways to them lead through its dispatcher, and take longer than some
// of a small model's operators: a share of its step makes hundreds of tensors and views.
//
// A layer's own memory: LibTorch's graph knows nothing of these views.
#pragma once

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <c10/core/GradMode.h>

#include <cstdint>

namespace swap {

// Whether what is made of x has a part in LibTorch's graph.
inline bool in_graph(const at::Tensor& x) { return c10::GradMode::is_enabled() && x.requires_grad(); }

// Uninitialised, on the device of `like`.
inline at::Tensor fresh(const at::Tensor& like, at::IntArrayRef shape, at::ScalarType dtype,
                        at::MemoryFormat format = at::MemoryFormat::Contiguous) {
  if (like.device().is_cpu()) return at::detail::empty_cpu(shape, dtype, /*pin_memory=*/false, format);
  return at::empty(shape, like.options().dtype(dtype), format);
}

// In the type of `like`.
inline at::Tensor fresh(const at::Tensor& like, at::IntArrayRef shape,
                        at::MemoryFormat format = at::MemoryFormat::Contiguous) {
  return fresh(like, shape, like.scalar_type(), format);
}

// x's memory with other sizes and strides, from the number `offset` of its storage on; x has no part in a graph.
inline at::Tensor view_of(const at::Tensor& x, at::IntArrayRef sizes, at::IntArrayRef strides, int64_t offset) {
  const auto* const impl = x.unsafeGetTensorImpl();
  auto view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(x.storage()),
                                                       impl->key_set(), impl->dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides, offset);
  return view;
}
inline at::Tensor view_of(const at::Tensor& x, at::IntArrayRef sizes, at::IntArrayRef strides) {
  return view_of(x, sizes, strides, x.storage_offset());
}

// `count` of x's samples, from `first` on.
inline at::Tensor samples_of(const at::Tensor& x, int64_t first, int64_t count) {
  if (in_graph(x)) return x.narrow(0, first, count);
  TORCH_CHECK(first >= 0 && count >= 0 && first + count <= x.size(0), "samples ", first, " to ", first + count, " of ",
              x.size(0));
  c10::SmallVector<int64_t, 5> sizes(x.sizes().begin(), x.sizes().end());
  sizes[0] = count;
  return view_of(x, sizes, x.strides(), x.storage_offset() + first * x.stride(0));
}

}  // namespace swap
