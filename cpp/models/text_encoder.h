// CLIP's text transformer. A subject's vectors are learnt through it, so states, sums and norms are always float32; the
// products of its layers are in bfloat16 where the model is, as under PyTorch's autocast.
#pragma once

#include <vector>

#include "models/layers.h"
#include "runtime/cancel.h"

namespace swap {

struct EncodedText {
  at::Tensor states;  // [B, L, width], those that condition the U-Net
  at::Tensor last;    // [B, L, width], the last layer's, normalised; undefined where the encoder has no projection
};

class TextEncoder {
 public:
  // scope: float32. dtype: that of the model.
  TextEncoder(const Scope& scope, const TextEncoderSpec& spec, at::ScalarType dtype);

  // ids [B, L] -> token embeddings [B, L, width], without positions
  at::Tensor embed(const at::Tensor& ids) const;
  // token embeddings [B, L, width] -> the states that condition the U-Net, [B, L, width]
  at::Tensor encode(const at::Tensor& embeddings, const Cancel& cancel) const {
    return run(embeddings, cancel, false).states;
  }
  // The same with the layers behind that state, for pooled().
  EncodedText encode_whole(const at::Tensor& embeddings, const Cancel& cancel) const {
    return run(embeddings, cancel, spec_.projection_dim > 0);
  }
  // Where each text ends, [B]: ids [B, L] say it.
  at::Tensor ends(const at::Tensor& ids) const;
  // The last layer's state where each text ends, projected: [B, projection_dim].
  at::Tensor pooled(const at::Tensor& last, const at::Tensor& ids) const;

  const TextEncoderSpec& spec() const { return spec_; }
  const at::Tensor& token_embeddings() const { return tokens_; }  // [vocab, width], as the file has them

 private:
  struct Layer {
    LayerNorm norm1, norm2;
    Linear qkv, out, fc1, fc2;  // Q, K and V side by side
  };

  at::Tensor apply(const Layer& layer, const at::Tensor& x, Steps* steps) const;
  EncodedText run(const at::Tensor& embeddings, const Cancel& cancel, bool whole) const;

  TextEncoderSpec spec_;
  at::Tensor tokens_, positions_;
  std::vector<Layer> layers_;
  LayerNorm final_norm_;
  at::Tensor projection_;  // [projection_dim, width] or undefined
};

}  // namespace swap
