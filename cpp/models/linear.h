// The linear layer of all models: frozen weights, gradients for the input only.
#pragma once

#include <ATen/ATen.h>

namespace swap {

// x [..., in], weight [out, in], bias [out] or undefined -> [..., out]
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

// dy [..., out] -> dx [..., in]
at::Tensor linear_gradient(const at::Tensor& dy, const at::Tensor& weight);

}  // namespace swap
