// Group normalisation of all models, alone or with SiLU behind it: frozen weights, gradients for the input only.
#pragma once

#include <ATen/ATen.h>

#include "runtime/steps.h"

namespace swap {

// x [B, C, h, w] -> the same shape, channels-last where x is. weight, bias [C]
at::Tensor group_norm(const at::Tensor& x, int64_t groups, const at::Tensor& weight, const at::Tensor& bias, double eps,
                      bool silu, Steps* steps = nullptr);

}  // namespace swap
