// A layer as a block of its own, so that LibTorch's graph takes its way back.
#pragma once

#include "runtime/steps.h"

template <class Layer>
at::Tensor as_block(const at::Tensor& x, Layer&& layer) {
  return swap::as_node(
             [&](const at::Tensor& input, swap::Steps* steps) {
               return swap::BlockResult{layer(input, steps), {}};
             },
             x)
      .y;
}
