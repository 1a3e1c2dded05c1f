#include "models/unet.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "cpu/parallel.h"
#include "runtime/error.h"
#include "runtime/fresh.h"

namespace swap {
namespace {

// x [B, C, h, w], skip [B, C', h, w] -> [B, C + C', h, w]
at::Tensor side_by_side(const at::Tensor& x, const at::Tensor& skip) {
  const auto format = at::MemoryFormat::ChannelsLast;
  const bool plain = x.is_cpu() && !in_graph(x) && !in_graph(skip) && x.is_contiguous(format) &&
                     skip.is_contiguous(format) && x.scalar_type() == skip.scalar_type();
  if (!plain) return at::cat({x, skip}, 1);
  TORCH_CHECK(skip.size(0) == x.size(0) && skip.size(2) == x.size(2) && skip.size(3) == x.size(3), "a skip connection ",
              skip.sizes(), " for features ", x.sizes());
  const int64_t C = x.size(1) + skip.size(1), item = static_cast<int64_t>(x.element_size());
  const auto result = fresh(x, {x.size(0), C, x.size(2), x.size(3)}, format);
  const int64_t left = x.size(1) * item, right = skip.size(1) * item;
  const auto* const from = static_cast<const char*>(x.const_data_ptr());
  const auto* const more = static_cast<const char*>(skip.const_data_ptr());
  auto* const to = static_cast<char*>(result.mutable_data_ptr());
  cpu::run_rows(x.size(0) * x.size(2) * x.size(3), C, [&](int64_t pixel) {
    char* const here = to + pixel * (left + right);
    std::memcpy(here, from + pixel * left, left);
    std::memcpy(here + left, more + pixel * right, right);
  });
  return result;
}

// What ControlNets add to the skip connections and to the middle.
void add_residuals(DownPath::Features& features, const Conditions& conditions) {
  const auto add = [](at::Tensor& x, const at::Tensor& residual) {
    if (residual.sizes() != x.sizes()) {
      throw Error("SWAP_ENGINE_ARGUMENT", "a residual of another shape than the U-Net's features");
    }
    x = x + residual.to(x.scalar_type());
  };
  const auto& down = conditions.down_residuals;
  if (!down.empty() && down.size() != features.skips.size()) {
    throw Error("SWAP_ENGINE_ARGUMENT", std::to_string(down.size()) + " residuals for " +
                                            std::to_string(features.skips.size()) + " skip connections");
  }
  for (size_t i = 0; i < down.size(); ++i) add(features.skips[i], down[i]);
  if (conditions.mid_residual.defined()) add(features.middle, conditions.mid_residual);
}

}  // namespace

UNet::UNet(const Scope& scope, const UNetSpec& spec) : spec_(spec), down_(scope, spec) {
  const auto& levels = spec.levels;
  const auto count = static_cast<int64_t>(levels.size());
  const int64_t base = levels[0].channels, time_width = 4 * base, groups = spec.norm_groups;

  layer_levels_ = down_.layer_levels();
  auto skips = down_.skip_channels();
  int64_t in = levels.back().channels;
  for (int64_t i = count - 1; i >= 0; --i) {
    const auto& level = levels[i];
    const Scope at_level = scope / "up_blocks" / (count - 1 - i);
    UpBlock block;
    for (int64_t j = 0; j <= level.layers; ++j) {
      const int64_t skip = skips.back();
      skips.pop_back();
      block.resnets.emplace_back(at_level / "resnets" / j, in + skip, level.channels, time_width, groups,
                                 spec.norm_eps);
      in = level.channels;
      if (level.up_attention) {
        const auto first = static_cast<int64_t>(layer_levels_.size());
        layer_levels_.insert(layer_levels_.end(), level.transformer_layers, i);
        block.transformers.emplace_back(at_level / "attentions" / j, spec, in, level.heads, level.transformer_layers,
                                        first);
      }
    }
    if (i > 0) block.resample = Conv2d(at_level / "upsamplers" / 0 / "conv", in, in, 3, 1, 1);
    up_.push_back(std::move(block));
  }

  norm_out_ = GroupNorm(scope / "conv_norm_out", base, groups, spec.norm_eps);
  conv_out_ = Conv2d(scope / "conv_out", base, spec.out_channels, 3, 1, 1);
}

TimeShifts UNet::time_shifts(const at::Tensor& timesteps, const Conditions& conditions, int64_t B) const {
  const auto embedding = down_.time_embedding(timesteps, conditions, B);
  auto shifts = down_.time_shifts(embedding);
  for (const auto& block : up_) {
    for (const auto& resnet : block.resnets) shifts.push_back(resnet.shift(embedding));
  }
  return shifts;
}

at::Tensor UNet::operator()(Wordless begun, const TimeShifts& shifts, AttentionContext& context,
                            const Conditions& conditions) const {
  context.losses.assign(layer_levels_.size(), at::Tensor());
  if (context.projections) context.projections->resize(layer_levels_.size());
  auto shift = shifts.begin();
  auto features = down_(std::move(begun), shift, context);
  add_residuals(features, conditions);

  auto& skips = features.skips;
  auto x = std::move(features.middle);
  for (const auto& block : up_) {
    for (size_t j = 0; j < block.resnets.size(); ++j) {
      x = side_by_side(x, skips.back());
      skips.pop_back();
      x = run_pair(block.resnets[j], block.transformers.empty() ? nullptr : &block.transformers[j], x, *shift++,
                   context);
    }
    if (block.resample.weight.defined()) {
      // To the size of the skip that comes next: twice, or twice less one where the latents' size was odd.
      x = change_size(block.resample, at::upsample_nearest2d(x, {skips.back().size(2), skips.back().size(3)}));
    }
  }
  context.cancel.check();
  const auto end = [this](const at::Tensor& input, Steps* steps) {
    return BlockResult{cast(conv_out_(norm_out_.activated(input, steps), steps), at::kFloat, steps), {}};
  };
  return as_node(end, x).y;
}

ReferenceKeys UNet::cross_keys(const at::Tensor& states, const std::vector<int64_t>& levels) const {
  ReferenceKeys keys(layer_levels_.size());
  down_.cross_keys(states, keys);
  for (const auto& block : up_) {
    for (const auto& transformer : block.transformers) transformer.cross_keys(states, keys);
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    const bool wanted = levels.empty() || std::find(levels.begin(), levels.end(), layer_levels_[i]) != levels.end();
    if (!wanted) keys[i] = at::Tensor();
  }
  return keys;
}

}  // namespace swap
