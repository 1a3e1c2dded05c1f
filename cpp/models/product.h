// Products with frozen weights by our own kernel, where this processor has one for them: linear layers, 3 x 3 and 1 x 1
// convolutions, GEGLU, and the way back of each. All in bfloat16, without autograd.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/intrusive_ptr.h>

#include <array>
#include <atomic>
#include <mutex>
#include <utility>

#include "cpu/product_kernel.h"
#include "runtime/arena.h"

namespace swap {

// A layer's weights as the kernel packs them, kept from its first product on. In a small model packing is as long as a
// third of the products; a large one would be in memory three times.
class PackedWeights : public c10::intrusive_ptr_target {
 public:
  using Ptr = c10::intrusive_ptr<PackedWeights>;  // null: packed anew for each product

  explicit PackedWeights(Arena::Ptr arena) : arena_(std::move(arena)) {}

  // All groups of outputs of `weight` for p, which must be the same weights each time.
  const at::BFloat16* get(cpu::Product p, const at::Tensor& weight, const cpu::ProductKernel& kernel);

 private:
  struct Packed {
    at::Tensor tensor;
    std::atomic<const at::BFloat16*> data{nullptr};  // the tensor's, once it is filled: read without the mutex
  };
  const Arena::Ptr arena_;
  std::mutex mutex_;
  std::array<Packed, 3> packed_;  // for the way forth, gated, and the way back
};

// Whether layers of this type on a CPU have this kernel for most of their products.
bool has_products(at::ScalarType dtype);

// Whether `x` and `weight` [out, in] or [out, in, k, k] are for this kernel: bfloat16 on a CPU, in and out multiples of
// 32, the weights of an output dense (channels-last).
bool product_takes(const at::Tensor& x, const at::Tensor& weight);
// The same for a convolution that is few operations, with any number of channels: up to the next multiple of 32 they
// are zeros. In the middle of a small model's step that is less than oneDNN's way to its kernel.
bool product_takes_picture(const at::Tensor& x, const at::Tensor& weight);

// y + added, in the memory of `y`, which nobody else may have; y where there is nothing to add.
inline at::Tensor plus(at::Tensor y, const at::Tensor& added) { return added.defined() ? y.add_(added) : y; }

// `added`, where it is defined, can be added to the results. It is before they are rounded if it is bfloat16, and of
// their shape or, in a 3 x 3 convolution, [B or 1, out, 1, 1].
//
// x [..., in], weight [out, in], bias [out] or undefined -> [..., out]; gated: [..., out / 2]
at::Tensor product_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool gated = false,
                          PackedWeights* packed = nullptr, const at::Tensor& added = {});
// dy [..., out] -> dx [..., in]
at::Tensor product_linear_gradient(const at::Tensor& dy, const at::Tensor& weight, PackedWeights* packed = nullptr);

// x [B, in, h, w] channels-last, weight [out, in, 3, 3] or [out, in, 1, 1] channels-last -> [B, out, h, w]
// channels-last, with a border of one zero around x for 3 x 3
at::Tensor product_convolution(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                               PackedWeights* packed = nullptr, const at::Tensor& added = {});
// dy [B, out, h, w] -> dx [B, in, h, w]
at::Tensor product_convolution_gradient(const at::Tensor& dy, const at::Tensor& weight,
                                        PackedWeights* packed = nullptr);

}  // namespace swap
