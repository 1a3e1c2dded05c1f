// Products with frozen weights by our own kernel, where this processor has one for them: linear layers, 3 x 3 and 1 x 1
// convolutions, GEGLU, and the way back of each. All in bfloat16, without autograd.
#pragma once

#include <ATen/ATen.h>

namespace swap {

// Whether `x` and `weight` [out, in] or [out, in, k, k] are for this kernel: bfloat16 on a CPU, in and out multiples of
// 32, at least 32 rows or pixels, the weights of an output dense (channels-last).
bool product_takes(const at::Tensor& x, const at::Tensor& weight);

// x [..., in], weight [out, in], bias [out] or undefined -> [..., out]; gated: [..., out / 2]
at::Tensor product_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, bool gated = false);
// dy [..., out] -> dx [..., in]
at::Tensor product_linear_gradient(const at::Tensor& dy, const at::Tensor& weight);

// x [B, in, h, w] channels-last, weight [out, in, 3, 3] or [out, in, 1, 1] channels-last -> [B, out, h, w]
// channels-last, with a border of one zero around x for 3 x 3
at::Tensor product_convolution(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
// dy [B, out, h, w] -> dx [B, in, h, w]
at::Tensor product_convolution_gradient(const at::Tensor& dy, const at::Tensor& weight);

}  // namespace swap
