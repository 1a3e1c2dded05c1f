// The linear layer of all models: frozen weights, and the way back to the input.
#pragma once

#include <ATen/ATen.h>

#include "models/product.h"

namespace swap {

// x [..., in], weight [out, in], bias [out] or undefined, `added` [..., out] or undefined -> [..., out]. The sum is
// rounded once where our own kernel makes it (product.h).
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  PackedWeights* packed = nullptr, const at::Tensor& added = {});

// dy [..., out] -> dx [..., in]
at::Tensor linear_gradient(const at::Tensor& dy, const at::Tensor& weight, PackedWeights* packed = nullptr);

}  // namespace swap
