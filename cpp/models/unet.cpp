#include "models/unet.h"

#include <algorithm>
#include <cmath>

namespace swap {

SpatialTransformer UNet::transformer(const Scope& scope, int64_t channels, int64_t heads, int64_t depth,
                                     int64_t level) {
  const auto first = static_cast<int64_t>(layer_levels_.size());
  layer_levels_.insert(layer_levels_.end(), depth, level);
  return SpatialTransformer(scope, spec_, channels, heads, depth, first);
}

UNet::UNet(const Scope& scope, const UNetSpec& spec) : spec_(spec) {
  const auto& levels = spec.levels;
  const auto count = static_cast<int64_t>(levels.size());
  const int64_t base = levels[0].channels, time_width = 4 * base, groups = spec.norm_groups;

  time1_ = Linear(scope / "time_embedding" / "linear_1", base, time_width);
  time2_ = Linear(scope / "time_embedding" / "linear_2", time_width, time_width);
  conv_in_ = Conv2d(scope / "conv_in", spec.in_channels, base, 3, 1, 1);

  // Channels of the skip connections, in the order they are made.
  std::vector<int64_t> skips{base};
  int64_t in = base;
  for (int64_t i = 0; i < count; ++i) {
    const auto& level = levels[i];
    const Scope at_level = scope / "down_blocks" / i;
    Block block;
    for (int64_t j = 0; j < level.layers; ++j) {
      block.resnets.emplace_back(at_level / "resnets" / j, in, level.channels, time_width, groups, spec.norm_eps);
      in = level.channels;
      if (level.down_attention) {
        block.transformers.push_back(
            transformer(at_level / "attentions" / j, in, level.heads, level.transformer_layers, i));
      }
      skips.push_back(in);
    }
    if (i + 1 < count) {
      block.resample = Conv2d(at_level / "downsamplers" / 0 / "conv", in, in, 3, 2, spec.downsample_padding);
      skips.push_back(in);
    }
    down_.push_back(std::move(block));
  }

  const Scope middle = scope / "mid_block";
  mid_resnets_.emplace_back(middle / "resnets" / 0, in, in, time_width, groups, spec.norm_eps);
  if (spec.mid_attention) {
    mid_transformer_.emplace(
        transformer(middle / "attentions" / 0, in, spec.mid_heads, spec.mid_transformer_layers, count - 1));
    // Without attention the middle is one resnet only (diffusers' UNetMidBlock2D as the U-Net builds it).
    mid_resnets_.emplace_back(middle / "resnets" / 1, in, in, time_width, groups, spec.norm_eps);
  }

  for (int64_t i = count - 1; i >= 0; --i) {
    const auto& level = levels[i];
    const Scope at_level = scope / "up_blocks" / (count - 1 - i);
    Block block;
    for (int64_t j = 0; j <= level.layers; ++j) {
      const int64_t skip = skips.back();
      skips.pop_back();
      block.resnets.emplace_back(at_level / "resnets" / j, in + skip, level.channels, time_width, groups,
                                 spec.norm_eps);
      in = level.channels;
      if (level.up_attention) {
        block.transformers.push_back(
            transformer(at_level / "attentions" / j, in, level.heads, level.transformer_layers, i));
      }
    }
    if (i > 0) block.resample = Conv2d(at_level / "upsamplers" / 0 / "conv", in, in, 3, 1, 1);
    up_.push_back(std::move(block));
  }

  norm_out_ = GroupNorm(scope / "conv_norm_out", base, groups, spec.norm_eps);
  conv_out_ = Conv2d(scope / "conv_out", base, spec.out_channels, 3, 1, 1);
}

at::Tensor UNet::time_embedding(const at::Tensor& timesteps) const {
  const int64_t half = spec_.levels[0].channels / 2;
  const auto exponent = at::arange(half, at::TensorOptions().dtype(at::kFloat).device(timesteps.device())) *
                        (-std::log(10000.0) / (static_cast<double>(half) - spec_.freq_shift));
  const auto angles = timesteps.to(at::kFloat).unsqueeze(1) * at::exp(exponent).unsqueeze(0);
  const auto sine = at::sin(angles), cosine = at::cos(angles);
  const auto embedding = (spec_.flip_sin_to_cos ? at::cat({cosine, sine}, 1) : at::cat({sine, cosine}, 1)).to(dtype());
  // Every resnet takes it through SiLU, so that is done here, once.
  return at::silu(time2_(at::silu(time1_(embedding))));
}

at::Tensor UNet::operator()(const at::Tensor& latents, const at::Tensor& timesteps, AttentionContext& context,
                            const Conditions&) const {
  context.losses.assign(layer_levels_.size(), at::Tensor());
  const auto time = time_embedding(timesteps);
  auto x = conv_in_(latents.to(dtype()).contiguous(at::MemoryFormat::ChannelsLast));

  const auto run = [&](const Block& block, size_t j) {
    x = block.resnets[j](context.cancel.at(x), time);
    if (!block.transformers.empty()) x = block.transformers[j](x, context);
  };

  std::vector<at::Tensor> skips{x};
  for (const auto& block : down_) {
    for (size_t j = 0; j < block.resnets.size(); ++j) {
      run(block, j);
      skips.push_back(x);
    }
    if (block.resample.weight.defined()) {
      x = block.resample(block.resample.padding == 0 ? at::constant_pad_nd(x, {0, 1, 0, 1}) : x);
      skips.push_back(x);
    }
  }

  x = mid_resnets_[0](context.cancel.at(x), time);
  if (mid_transformer_) x = mid_resnets_[1]((*mid_transformer_)(x, context), time);

  for (const auto& block : up_) {
    for (size_t j = 0; j < block.resnets.size(); ++j) {
      x = at::cat({x, skips.back()}, 1);
      skips.pop_back();
      run(block, j);
    }
    if (block.resample.weight.defined()) {
      // To the size of the skip that comes next: twice, or twice less one where the latents' size was odd.
      x = block.resample(at::upsample_nearest2d(x, {skips.back().size(2), skips.back().size(3)}));
    }
  }
  context.cancel.check();
  return conv_out_(at::silu(norm_out_(x))).to(at::kFloat);
}

ReferenceKeys UNet::cross_keys(const at::Tensor& states, const std::vector<int64_t>& levels) const {
  ReferenceKeys keys(layer_levels_.size());
  const auto visit = [&](const SpatialTransformer& t) { t.cross_keys(states, keys); };
  for (const auto& block : down_) std::for_each(block.transformers.begin(), block.transformers.end(), visit);
  if (mid_transformer_) visit(*mid_transformer_);
  for (const auto& block : up_) std::for_each(block.transformers.begin(), block.transformers.end(), visit);
  for (size_t i = 0; i < keys.size(); ++i) {
    const bool wanted = levels.empty() || std::find(levels.begin(), levels.end(), layer_levels_[i]) != levels.end();
    if (!wanted) keys[i] = at::Tensor();
  }
  return keys;
}

}  // namespace swap
