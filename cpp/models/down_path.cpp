#include "models/down_path.h"

namespace swap {

namespace {

at::Tensor run_resnet(const ResnetBlock& resnet, const at::Tensor& x, const at::Tensor& shift, Steps* steps) {
  return resnet(x, shift.size(0) == 1 ? shift : samples_of(shift, 0, x.size(0)), steps);
}

// What ends with a transformer, as a node.
at::Tensor run_node(const Block& block, const SpatialTransformer& transformer, const at::Tensor& x,
                    AttentionContext& context) {
  const auto [y, losses] = as_node(block, x, context.k_states, context.v_states);
  for (size_t i = 0; i < losses.size(); ++i) {
    if (losses[i].defined()) context.losses.at(transformer.first_layer() + i) = losses[i];
  }
  return y;
}

}  // namespace

at::Tensor run_pair(const ResnetBlock& resnet, const SpatialTransformer* transformer, const at::Tensor& x,
                    const at::Tensor& shift, AttentionContext& context) {
  const auto block = [&](const at::Tensor& input, Steps* steps) {
    check(context.cancel, steps);
    BlockResult result{run_resnet(resnet, input, shift, steps), {}};
    if (transformer) result.y = (*transformer)(result.y, {}, context, steps, result.losses);
    return result;
  };
  return transformer ? run_node(block, *transformer, x, context) : as_node(block, x).y;
}

at::Tensor change_size(const Conv2d& resample, const at::Tensor& x) {
  const auto block = [&](const at::Tensor& input, Steps* steps) { return BlockResult{resample(input, steps), {}}; };
  // Without padding, one row and column of zeros at the far side, as in the original.
  return as_node(block, resample.padding == 0 ? at::constant_pad_nd(x, {0, 1, 0, 1}) : x).y;
}

at::Tensor part_of(const at::Tensor& x, Share share, int64_t B) {
  if (share.count == B || !x.defined()) return x;
  const int64_t b = x.size(0), first = share.first % b;
  return first + share.count <= b ? samples_of(x, first, share.count) : share.of(repeat_to(x, B));
}

Wordless Wordless::of(Share share, int64_t B) const {
  Wordless result{{}, part_of(x, share, B), part_of(rows, share, B)};
  for (const auto& skip : skips) result.skips.push_back(part_of(skip, share, B));
  return result;
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
    for (int64_t j = 0; j < level.layers; ++j) {
      Stage stage;
      stage.resnet.emplace(at_level / "resnets" / j, in, level.channels, time_width, groups, spec.norm_eps);
      in = level.channels;
      if (level.down_attention) {
        stage.transformer.emplace(
            transformer(at_level / "attentions" / j, in, level.heads, level.transformer_layers, i));
      }
      stages_.push_back(std::move(stage));
      skip_channels_.push_back(in);
    }
    if (i + 1 < count) {
      stages_.push_back(
          {{}, {}, Conv2d(at_level / "downsamplers" / 0 / "conv", in, in, 3, 2, spec.downsample_padding)});
      skip_channels_.push_back(in);
    }
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
  for (const auto& stage : stages_) {
    if (stage.resnet) shifts.push_back(stage.resnet->shift(embedding));
  }
  for (const auto& resnet : mid_resnets_) shifts.push_back(resnet.shift(embedding));
  return shifts;
}

Wordless DownPath::wordless(const at::Tensor& x, const TimeShifts& shifts, const Cancel& cancel) const {
  Wordless result{{x}, x, {}};
  auto shift = shifts.begin();
  for (const auto& stage : stages_) {
    cancel.check();
    result.x =
        stage.resnet ? run_resnet(*stage.resnet, result.x, *shift++, nullptr) : change_size(stage.resample, result.x);
    if (stage.transformer) {
      result.rows = stage.transformer->begin(result.x, cancel);
      break;
    }
    result.skips.push_back(result.x);
  }
  return result;
}

DownPath::Features DownPath::operator()(Wordless begun, TimeShifts::const_iterator& shift,
                                        AttentionContext& context) const {
  const int64_t B = context.k_states.size(0);
  auto x = std::move(begun.x);
  auto skips = std::move(begun.skips);
  const size_t made = skips.size();
  for (size_t i = 0; i < stages_.size(); ++i) {
    const auto& stage = stages_[i];
    const auto now = stage.resnet ? shift++ : shift;
    // The first skip connection is what came in, each stage adds one.
    if (i + 1 < made) continue;
    const auto* transformer = stage.transformer ? &*stage.transformer : nullptr;
    if (i + 1 == made && begun.rows.defined()) {
      const auto block = [&](const at::Tensor& input, Steps* steps) {
        BlockResult result;
        result.y = (*transformer)(input, begun.rows, context, steps, result.losses);
        return result;
      };
      x = run_node(block, *transformer, x, context);
    } else {
      x = stage.resnet ? run_pair(*stage.resnet, transformer, x, *now, context) : change_size(stage.resample, x);
    }
    skips.push_back(x);
  }
  x = run_pair(mid_resnets_[0], mid_transformer_ ? &*mid_transformer_ : nullptr, repeat_to(x, B), *shift++, context);
  if (mid_transformer_) x = run_pair(mid_resnets_[1], nullptr, x, *shift++, context);
  for (auto& skip : skips) skip = repeat_to(skip, B);
  return {std::move(skips), x};
}

void DownPath::cross_keys(const at::Tensor& states, ReferenceKeys& keys) const {
  for (const auto& stage : stages_) {
    if (stage.transformer) stage.transformer->cross_keys(states, keys);
  }
  if (mid_transformer_) mid_transformer_->cross_keys(states, keys);
}

}  // namespace swap
