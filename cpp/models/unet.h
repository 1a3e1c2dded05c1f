// UNet2DConditionModel as SD 1.x, 2.x and the embedded model configure it.
#pragma once

#include <optional>
#include <vector>

#include "attention/context.h"
#include "models/conditions.h"
#include "models/resnet.h"
#include "models/transformer.h"

namespace swap {

class UNet {
 public:
  UNet(const Scope& scope, const UNetSpec& spec);

  // latents [B, in, h, w] fp32, timesteps [B] (may be fractional) -> [B, out, h, w] fp32.
  // context.losses is sized here; it is filled where context.reference asks for it.
  at::Tensor operator()(const at::Tensor& latents, const at::Tensor& timesteps, AttentionContext& context,
                        const Conditions& conditions = {}) const;

  // K of every cross-attention layer whose downsampling level is in `levels` (empty: all) for states [1, L, C].
  ReferenceKeys cross_keys(const at::Tensor& states, const std::vector<int64_t>& levels) const;

  // Downsampling level of every cross-attention layer, in the order of the forward pass.
  const std::vector<int64_t>& layer_levels() const { return layer_levels_; }
  const UNetSpec& spec() const { return spec_; }
  at::ScalarType dtype() const { return conv_in_.weight.scalar_type(); }

 private:
  struct Block {
    std::vector<ResnetBlock> resnets;
    std::vector<SpatialTransformer> transformers;  // one behind each resnet, or none
    Conv2d resample;                               // undefined at the end of the line
  };

  SpatialTransformer transformer(const Scope& scope, int64_t channels, int64_t heads, int64_t depth, int64_t level);
  at::Tensor time_embedding(const at::Tensor& timesteps) const;

  UNetSpec spec_;
  Linear time1_, time2_;
  Conv2d conv_in_;
  std::vector<Block> down_, up_;
  std::vector<ResnetBlock> mid_resnets_;
  std::optional<SpatialTransformer> mid_transformer_;
  GroupNorm norm_out_;
  Conv2d conv_out_;
  std::vector<int64_t> layer_levels_;
};

}  // namespace swap
