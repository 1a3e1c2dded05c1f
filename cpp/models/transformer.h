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

  // What comes before the first cross-attention, and hangs on no word. x [b, C, h, w] -> rows [b, h w, C].
  at::Tensor begin(const at::Tensor& x, const Cancel& cancel, Steps* steps = nullptr) const;

  // x [b, C, h, w], text states in the context [B, L, C], B a multiple of b, or b where there are steps -> [B, C, h,
  // w]. `begun`: what begin() gave of x, if it was called. Adds the layers' losses.
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& begun, AttentionContext& context, Steps* steps,
                        std::vector<at::Tensor>& losses) const;

  int64_t first_layer() const { return first_layer_; }

  // Writes K of `states` [1, L, C] for every cross-attention layer of this transformer into `keys`.
  void cross_keys(const at::Tensor& states, ReferenceKeys& keys) const;

 private:
  struct SelfAttention {
    Linear qkv, out;  // Q, K and V side by side
    SelfAttention(const Scope& scope, int64_t width);
  };
  struct CrossAttention {
    Linear q, k, v, out;
    CrossAttention(const Scope& scope, int64_t width, int64_t context_width);
  };
  struct Block {
    LayerNorm norm1, norm2, norm3;
    SelfAttention self;
    CrossAttention cross;
    Linear gate, out;  // GEGLU [C -> 8C], then [4C -> C]
    Block(const Scope& scope, int64_t width, int64_t context_width);
  };

  at::Tensor attend_itself(const Block& block, const at::Tensor& rows, const Cancel& cancel, Steps* steps) const;
  // Without the layer behind it.
  at::Tensor cross_attention(const CrossAttention& layer, const at::Tensor& x, AttentionContext& context, int64_t depth,
                             Steps* steps, std::vector<at::Tensor>& losses) const;

  int64_t heads_, first_layer_;
  bool linear_, upcast_;
  GroupNorm norm_;
  Linear linear_in_, linear_out_;
  Conv2d conv_in_, conv_out_;
  std::vector<Block> blocks_;
};

}  // namespace swap
