// GEGLU, the gate of the transformer's feed-forward.
#pragma once

#include <ATen/ATen.h>

#include "models/product.h"
#include "runtime/steps.h"

namespace swap {

// x [B, N, C], weight [2 out, C], bias [2 out] -> [B, N, out]: the first half of the linear layer's output times GELU
// of the second. Given steps, `packed` must live until the way back was taken.
at::Tensor gated_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                        PackedWeights* packed = nullptr, Steps* steps = nullptr);

}  // namespace swap
