// GELU where plain operators would take several passes, each with an exponential of its own.
#pragma once

#include <ATen/ATen.h>

#include "runtime/steps.h"

namespace swap {

// CLIP's activation, x sigmoid(1.702 x): on the CPU one pass there and one back.
at::Tensor quick_gelu(const at::Tensor& x, Steps* steps = nullptr);

// x Phi(x)
at::Tensor gelu(const at::Tensor& x, Steps* steps = nullptr);

// Of a gelu(z): halves [..., 2 F] are a and z, dy [..., F] -> the gradient of both halves. On the CPU one pass.
at::Tensor geglu_gradient(const at::Tensor& halves, const at::Tensor& dy);

}  // namespace swap
