// CLIP's text transformer. Always fp32: a subject's vectors are learnt through it.
#pragma once

#include <vector>

#include "models/layers.h"
#include "runtime/cancel.h"

namespace swap {

class TextEncoder {
 public:
  TextEncoder(const Scope& scope, const TextEncoderSpec& spec);

  // ids [B, L] -> token embeddings [B, L, width], without positions
  at::Tensor embed(const at::Tensor& ids) const;
  // token embeddings [B, L, width] -> the states that condition the U-Net, [B, L, width]
  at::Tensor encode(const at::Tensor& embeddings, const Cancel& cancel) const;

  const TextEncoderSpec& spec() const { return spec_; }
  const at::Tensor& token_embeddings() const { return tokens_; }  // [vocab, width]

 private:
  struct Layer {
    LayerNorm norm1, norm2;
    Linear q, k, v, out, fc1, fc2;
  };

  TextEncoderSpec spec_;
  at::Tensor tokens_, positions_;
  std::vector<Layer> layers_;
  LayerNorm final_norm_;
};

}  // namespace swap
