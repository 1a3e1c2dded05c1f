// UNet2DConditionModel as SD 1.x, 2.x, SDXL and the embedded model configure it.
#pragma once

#include <vector>

#include "models/down_path.h"

namespace swap {

class UNet {
 public:
  UNet(const Scope& scope, const UNetSpec& spec);

  // latents [b, in, h, w] fp32, timesteps [b] (may be fractional), text states in the context [B, L, C] ->
  // [B, out, h, w] fp32. Where there are more text states than latents, these are meant again for each next b of them:
  // what comes before the first cross-attention is then computed once. (Not where `conditions` has states of a sample.)
  // context.losses is sized here; it is filled where context.reference asks for it.
  at::Tensor operator()(const at::Tensor& latents, const at::Tensor& timesteps, AttentionContext& context,
                        const Conditions& conditions = {}) const {
    const auto shifts = time_shifts(timesteps, conditions, context.k_states.size(0));
    return (*this)(wordless(latents, shifts, context.cancel), shifts, context, conditions);
  }

  // The same in two parts, for what time_shifts() says of the timesteps.
  Wordless wordless(const at::Tensor& latents, const TimeShifts& shifts, const Cancel& cancel) const {
    return down_.wordless(down_.enter(latents), shifts, cancel);
  }
  at::Tensor operator()(Wordless begun, const TimeShifts& shifts, AttentionContext& context,
                        const Conditions& conditions) const;

  // timesteps [b] -> [B, channels, 1, 1] for every resnet, B a multiple of b. Of `conditions`, what hangs on the
  // timestep.
  TimeShifts time_shifts(const at::Tensor& timesteps, const Conditions& conditions, int64_t B) const;

  // K of every cross-attention layer whose downsampling level is in `levels` (empty: all) for states [1, L, C].
  ReferenceKeys cross_keys(const at::Tensor& states, const std::vector<int64_t>& levels) const;

  // Downsampling level of every cross-attention layer, in the order of the forward pass.
  const std::vector<int64_t>& layer_levels() const { return layer_levels_; }
  // Channels of the skip connections, in the order that they are made.
  const std::vector<int64_t>& skip_channels() const { return down_.skip_channels(); }
  const UNetSpec& spec() const { return spec_; }
  at::ScalarType dtype() const { return down_.dtype(); }

 private:
  // A level: resnets, each with the transformer behind it, and what leads to the next level.
  struct UpBlock {
    std::vector<ResnetBlock> resnets;
    std::vector<SpatialTransformer> transformers;  // one behind each resnet, or none
    Conv2d resample;                               // undefined at the end of the line
  };

  UNetSpec spec_;
  DownPath down_;
  std::vector<UpBlock> up_;
  GroupNorm norm_out_;
  Conv2d conv_out_;
  std::vector<int64_t> layer_levels_;
};

}  // namespace swap
