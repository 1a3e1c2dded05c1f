// The first half of a U-Net, as the U-Net and its ControlNets have it: time embedding, way down, middle.
#pragma once

#include <optional>
#include <vector>

#include "attention/context.h"
#include "models/conditions.h"
#include "models/resnet.h"
#include "models/time_embedding.h"
#include "models/transformer.h"
#include "runtime/shares.h"

namespace swap {

// What the timestep adds to the features of every resnet, in the order of the forward pass: [B, channels, 1, 1], or
// [1, channels, 1, 1] where it is the same for all samples.
using TimeShifts = std::vector<at::Tensor>;

// A resnet and the transformer behind it, where there is one: a node of LibTorch's graph. x [B, C, h, w].
at::Tensor run_pair(const ResnetBlock& resnet, const SpatialTransformer* transformer, const at::Tensor& x,
                    const at::Tensor& shift, AttentionContext& context);

// A convolution from one level to the next, a node as well.
at::Tensor change_size(const Conv2d& resample, const at::Tensor& x);

// A share of the batch of B that x [b, ...] stands for again and again; x itself where that is the whole batch.
at::Tensor part_of(const at::Tensor& x, Share share, int64_t B);

// What a U-Net computes before its first cross-attention, and what no word reaches: [b, ...] each.
struct Wordless {
  std::vector<at::Tensor> skips;  // those that are made until then
  at::Tensor x;                   // what comes behind them
  at::Tensor rows;                // how far the transformer has come that takes `x`; undefined: the middle takes it

  // part_of() each.
  Wordless of(Share share, int64_t B) const;
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

  // What comes before the first cross-attention, and hangs on no word. x [b, ...]: what `enter` gave, or that and a
  // picture's embedding.
  Wordless wordless(const at::Tensor& x, const TimeShifts& shifts, const Cancel& cancel) const;

  struct Features {
    std::vector<at::Tensor> skips;  // in the order that they are made, that of `skip_channels`
    at::Tensor middle;
  };
  // What follows. Of `begun` there are b samples, of text states B, a multiple of b: up to the first cross-attention
  // samples that differ in their words alone are one. `shift` is that of the first resnet here, and afterwards behind
  // that of the last.
  Features operator()(Wordless begun, TimeShifts::const_iterator& shift, AttentionContext& context) const;

  // Writes K of states [1, L, C] for every cross-attention layer here into `keys`.
  void cross_keys(const at::Tensor& states, ReferenceKeys& keys) const;

  // Downsampling level of every cross-attention layer, in the order of the forward pass.
  const std::vector<int64_t>& layer_levels() const { return layer_levels_; }
  const std::vector<int64_t>& skip_channels() const { return skip_channels_; }
  at::ScalarType dtype() const { return conv_in_.weight.scalar_type(); }

 private:
  SpatialTransformer transformer(const Scope& scope, int64_t channels, int64_t heads, int64_t depth, int64_t level);

  // Each gives a skip connection.
  struct Stage {
    std::optional<ResnetBlock> resnet;
    std::optional<SpatialTransformer> transformer;  // behind the resnet
    Conv2d resample;                                // in place of both
  };

  UNetSpec spec_;
  TimeEmbedding time_;
  Conv2d conv_in_;
  std::vector<Stage> stages_;
  std::vector<ResnetBlock> mid_resnets_;
  std::optional<SpatialTransformer> mid_transformer_;
  std::vector<int64_t> layer_levels_, skip_channels_;
};

}  // namespace swap
