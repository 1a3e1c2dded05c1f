// The U-Net's spatial transformer: self-attention, split cross-attention, GEGLU feed-forward.
#pragma once

#include <vector>

#include "attention/context.h"
#include "models/layers.h"

namespace swap {

class SpatialTransformer {
 public:
  // `first_layer` is the number of this transformer's first cross-attention layer in the forward pass.
  SpatialTransformer(const Scope& scope, const UNetSpec& spec, int64_t channels, int64_t heads, int64_t depth,
                     int64_t first_layer);

  // x [b, C, h, w], text states in the context [B, L, C], B a multiple of b -> [B, C, h, w]
  at::Tensor operator()(const at::Tensor& x, AttentionContext& context) const;

  // Writes K of `states` [1, L, C] for every cross-attention layer of this transformer into `keys`.
  void cross_keys(const at::Tensor& states, ReferenceKeys& keys) const;

 private:
  struct Attention {
    Linear q, k, v, out;
    Attention(const Scope& scope, int64_t width, int64_t context_width);
  };
  struct Block {
    LayerNorm norm1, norm2, norm3;
    Attention self, cross;
    Linear gate, out;  // GEGLU [C -> 8C], then [4C -> C]
    Block(const Scope& scope, int64_t width, int64_t context_width);
  };

  at::Tensor self_attention(const Attention& layer, const at::Tensor& x) const;
  at::Tensor cross_attention(const Attention& layer, const at::Tensor& x, AttentionContext& context,
                             int64_t index) const;

  int64_t heads_, first_layer_;
  bool linear_, upcast_;
  GroupNorm norm_;
  Linear linear_in_, linear_out_;
  Conv2d conv_in_, conv_out_;
  std::vector<Block> blocks_;
};

}  // namespace swap
