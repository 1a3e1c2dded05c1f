// The first half of a U-Net, as the U-Net and its ControlNets have it: time embedding, way down, middle.
#pragma once

#include <optional>
#include <vector>

#include "attention/context.h"
#include "models/conditions.h"
#include "models/resnet.h"
#include "models/time_embedding.h"
#include "models/transformer.h"

namespace swap {

// What the timestep adds to the features of every resnet, in the order of the forward pass: [B, channels], or
// [1, channels] where it is the same for all samples.
using TimeShifts = std::vector<at::Tensor>;

// A resnet and the transformer behind it, where there is one: a node of LibTorch's graph. x [B or b, C, h, w].
at::Tensor run_pair(const ResnetBlock& resnet, const SpatialTransformer* transformer, const at::Tensor& x,
                    const at::Tensor& shift, AttentionContext& context);

// The resnets of one level, each with the transformer behind it, and what leads to the next level.
struct UNetBlock {
  std::vector<ResnetBlock> resnets;
  std::vector<SpatialTransformer> transformers;  // one behind each resnet, or none
  Conv2d resample;                               // undefined at the end of the line

  // x through the j-th resnet and transformer.
  at::Tensor run(size_t j, const at::Tensor& x, const at::Tensor& shift, AttentionContext& context) const;
  at::Tensor change_size(const at::Tensor& x) const;
};

class DownPath {
 public:
  DownPath(const Scope& scope, const UNetSpec& spec);

  // [B, 4 * channels] after SiLU, as every resnet takes it.
  at::Tensor time_embedding(const at::Tensor& timesteps, const Conditions& conditions, int64_t B) const {
    return repeat_to(time_(timesteps, conditions), B);
  }
  // What the embedding adds in the resnets here.
  TimeShifts time_shifts(const at::Tensor& embedding) const;
  // latents [B, in, h, w] fp32 -> [B, channels, h, w]
  at::Tensor enter(const at::Tensor& latents) const;

  struct Features {
    std::vector<at::Tensor> skips;  // in the order that they are made, that of `skip_channels`
    at::Tensor middle;
  };
  // x [b, ...]: what `enter` gave, or that and a picture's embedding. The text states are [B, ...], B a multiple of b:
  // up to the first cross-attention samples that differ in their words alone are one. `shift` is that of the first
  // resnet here, and afterwards behind that of the last.
  Features operator()(const at::Tensor& x, TimeShifts::const_iterator& shift, AttentionContext& context) const;

  // Writes K of states [1, L, C] for every cross-attention layer here into `keys`.
  void cross_keys(const at::Tensor& states, ReferenceKeys& keys) const;

  // Downsampling level of every cross-attention layer, in the order of the forward pass.
  const std::vector<int64_t>& layer_levels() const { return layer_levels_; }
  const std::vector<int64_t>& skip_channels() const { return skip_channels_; }
  at::ScalarType dtype() const { return conv_in_.weight.scalar_type(); }

 private:
  SpatialTransformer transformer(const Scope& scope, int64_t channels, int64_t heads, int64_t depth, int64_t level);

  UNetSpec spec_;
  TimeEmbedding time_;
  Conv2d conv_in_;
  std::vector<UNetBlock> down_;
  std::vector<ResnetBlock> mid_resnets_;
  std::optional<SpatialTransformer> mid_transformer_;
  std::vector<int64_t> layer_levels_, skip_channels_;
};

}  // namespace swap
