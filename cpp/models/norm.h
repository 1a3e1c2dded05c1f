// Normalisation of all models, of groups, alone or with SiLU behind it, and of layers: frozen weights, gradients for
// the input only.
#pragma once

#include <ATen/ATen.h>

#include "runtime/steps.h"

namespace swap {

// x [B, C, h, w] -> the same shape, channels-last where x is. weight, bias [C]
at::Tensor group_norm(const at::Tensor& x, int64_t groups, const at::Tensor& weight, const at::Tensor& bias, double eps,
                      bool silu, Steps* steps = nullptr);

// x [..., C], weight and bias [C], all of one type -> the same shape in `dtype`. Without steps LibTorch's graph has no
// part of it.
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps,
                      at::ScalarType dtype, Steps* steps = nullptr);

}  // namespace swap
