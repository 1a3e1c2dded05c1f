// The convolution of all models: frozen weights, and the way back to the input.
#pragma once

#include <ATen/ATen.h>

#include "models/product.h"

namespace swap {

// x [B, in, h, w], weight [out, in, kernel, kernel] channels-last, bias [out], `added` [B, out, h', w'] or [B or 1,
// out, 1, 1] or undefined -> [B, out, h', w'] channels-last. The sum is rounded once where our own kernel makes it
// (product.h).
at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int64_t stride,
                    int64_t padding, PackedWeights* packed = nullptr, const at::Tensor& added = {});

// dy [B, out, h', w'], the shape of x -> dx
at::Tensor convolution_gradient(const at::Tensor& dy, at::IntArrayRef shape, const at::Tensor& weight, int64_t stride,
                                int64_t padding, PackedWeights* packed = nullptr);

}  // namespace swap
