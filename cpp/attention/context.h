// What a forward pass of the U-Net needs for its cross-attention and what it gives back. Handed down explicitly:
// nothing of it is global.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "runtime/cancel.h"

namespace swap {

// K_r of every cross-attention layer in the order of the forward pass, [1, H, L, d]; undefined where a layer has no
// loss.
using ReferenceKeys = std::vector<at::Tensor>;

// K and V of a cross-attention layer, [B, H, L, d].
struct CrossProjection {
  at::Tensor k, v;
};

struct AttentionContext {
  at::Tensor k_states, v_states;  // text states [B, L, C] that K and V are made from
  // In and out, by layer, where calls with the same states follow each other and none wants a gradient: the first one
  // fills it.
  std::vector<CrossProjection>* projections = nullptr;
  // Where the loss is wanted: one set of keys for each sample of the batch, else empty.
  std::vector<const ReferenceKeys*> reference;
  at::Tensor token_weights;        // [L] fp32, or undefined
  std::vector<at::Tensor> losses;  // out: by layer, [B] fp32; undefined where there is none
  Cancel cancel;
};

}  // namespace swap
