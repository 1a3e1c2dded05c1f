#include "models/down_path.h"

namespace swap {

at::Tensor run_pair(const ResnetBlock& resnet, const SpatialTransformer* transformer, const at::Tensor& x,
                    const at::Tensor& shift, AttentionContext& context) {
  const auto block = [&](const at::Tensor& input, Steps* steps) {
    check(context.cancel, steps);
    const auto own = shift.size(0) == 1 ? shift : shift.narrow(0, 0, input.size(0));
    BlockResult result{resnet(input, own, steps), {}};
    if (transformer) result.y = (*transformer)(result.y, context, steps, result.losses);
    return result;
  };
  if (!transformer) return as_node(block, x).y;
  const auto [y, losses] = as_node(block, x, context.k_states, context.v_states);
  for (size_t i = 0; i < losses.size(); ++i) {
    if (losses[i].defined()) context.losses.at(transformer->first_layer() + i) = losses[i];
  }
  return y;
}

at::Tensor UNetBlock::run(size_t j, const at::Tensor& x, const at::Tensor& shift, AttentionContext& context) const {
  return run_pair(resnets[j], transformers.empty() ? nullptr : &transformers[j], x, shift, context);
}

at::Tensor UNetBlock::change_size(const at::Tensor& x) const {
  return as_node([&](const at::Tensor& input, Steps* steps) { return BlockResult{resample(input, steps), {}}; }, x).y;
}

SpatialTransformer DownPath::transformer(const Scope& scope, int64_t channels, int64_t heads, int64_t depth,
                                         int64_t level) {
  const auto first = static_cast<int64_t>(layer_levels_.size());
  layer_levels_.insert(layer_levels_.end(), depth, level);
  return SpatialTransformer(scope, spec_, channels, heads, depth, first);
}

DownPath::DownPath(const Scope& scope, const UNetSpec& spec) : spec_(spec), time_(scope, spec) {
  const auto& levels = spec.levels;
  const auto count = static_cast<int64_t>(levels.size());
  const int64_t base = levels[0].channels, time_width = 4 * base, groups = spec.norm_groups;

  conv_in_ = Conv2d(scope / "conv_in", spec.in_channels, base, 3, 1, 1);

  skip_channels_.push_back(base);
  int64_t in = base;
  for (int64_t i = 0; i < count; ++i) {
    const auto& level = levels[i];
    const Scope at_level = scope / "down_blocks" / i;
    UNetBlock block;
    for (int64_t j = 0; j < level.layers; ++j) {
      block.resnets.emplace_back(at_level / "resnets" / j, in, level.channels, time_width, groups, spec.norm_eps);
      in = level.channels;
      if (level.down_attention) {
        block.transformers.push_back(
            transformer(at_level / "attentions" / j, in, level.heads, level.transformer_layers, i));
      }
      skip_channels_.push_back(in);
    }
    if (i + 1 < count) {
      block.resample = Conv2d(at_level / "downsamplers" / 0 / "conv", in, in, 3, 2, spec.downsample_padding);
      skip_channels_.push_back(in);
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
}

at::Tensor DownPath::enter(const at::Tensor& latents) const {
  return conv_in_(latents.to(dtype()).contiguous(at::MemoryFormat::ChannelsLast));
}

TimeShifts DownPath::time_shifts(const at::Tensor& embedding) const {
  TimeShifts shifts;
  for (const auto& block : down_) {
    for (const auto& resnet : block.resnets) shifts.push_back(resnet.time(embedding));
  }
  for (const auto& resnet : mid_resnets_) shifts.push_back(resnet.time(embedding));
  return shifts;
}

DownPath::Features DownPath::operator()(const at::Tensor& input, TimeShifts::const_iterator& shift,
                                        AttentionContext& context) const {
  const int64_t B = context.k_states.size(0);
  auto x = input;
  std::vector<at::Tensor> skips{x};
  for (const auto& block : down_) {
    for (size_t j = 0; j < block.resnets.size(); ++j) {
      x = block.run(j, x, *shift++, context);
      skips.push_back(x);
    }
    if (block.resample.weight.defined()) {
      x = block.change_size(block.resample.padding == 0 ? at::constant_pad_nd(x, {0, 1, 0, 1}) : x);
      skips.push_back(x);
    }
  }
  x = run_pair(mid_resnets_[0], mid_transformer_ ? &*mid_transformer_ : nullptr, repeat_to(x, B), *shift++, context);
  if (mid_transformer_) x = run_pair(mid_resnets_[1], nullptr, x, *shift++, context);
  for (auto& skip : skips) skip = repeat_to(skip, B);
  return {std::move(skips), x};
}

void DownPath::cross_keys(const at::Tensor& states, ReferenceKeys& keys) const {
  for (const auto& block : down_) {
    for (const auto& transformer : block.transformers) transformer.cross_keys(states, keys);
  }
  if (mid_transformer_) mid_transformer_->cross_keys(states, keys);
}

}  // namespace swap
