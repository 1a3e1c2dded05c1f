#include "models/control_net.h"

#include "models/unet.h"
#include "runtime/error.h"

namespace swap {

ControlNet::ControlNet(const Scope& scope, const ControlNetSpec& spec) : spec_(spec), down_(scope, spec.unet) {
  const auto& widths = spec.image_widths;
  const Scope at_picture = scope / "controlnet_cond_embedding";
  picture_.emplace_back(at_picture / "conv_in", spec.image_channels, widths[0], 3, 1, 1);
  for (size_t i = 0; i + 1 < widths.size(); ++i) {
    const auto block = static_cast<int64_t>(2 * i);
    picture_.emplace_back(at_picture / "blocks" / block, widths[i], widths[i], 3, 1, 1);
    picture_.emplace_back(at_picture / "blocks" / (block + 1), widths[i], widths[i + 1], 3, 2, 1);
  }
  picture_.emplace_back(at_picture / "conv_out", widths.back(), spec.unet.levels[0].channels, 3, 1, 1);

  const auto& channels = down_.skip_channels();
  for (size_t i = 0; i < channels.size(); ++i) {
    zero_.emplace_back(scope / "controlnet_down_blocks" / static_cast<int64_t>(i), channels[i], channels[i], 1);
  }
  const int64_t deepest = spec.unet.levels.back().channels;
  zero_middle_ = Conv2d(scope / "controlnet_mid_block", deepest, deepest, 1);
}

void ControlNet::check_fits(const UNet& unet, int64_t factor) const {
  const auto refuse = [](const std::string& what) {
    throw Error("SWAP_CONTROL_MODEL", "the ControlNet does not fit the model: " + what,
                "use one that was made for a model of this family");
  };
  const auto &own = spec_.unet, &other = unet.spec();
  if (down_.skip_channels() != unet.skip_channels()) refuse("its levels are other than the U-Net's");
  if (own.cross_attention_dim != other.cross_attention_dim) {
    refuse("it takes text states of width " + std::to_string(own.cross_attention_dim) + ", the U-Net of " +
           std::to_string(other.cross_attention_dim));
  }
  if (own.in_channels > other.in_channels) refuse("it takes more channels of latents than the U-Net");
  if (own.pooled_width != 0 && own.pooled_width != other.pooled_width) refuse("it takes another pooled text state");
  if (int64_t(1) << (spec_.image_widths.size() - 1) != factor) {
    refuse("its picture is made " + std::to_string(int64_t(1) << (spec_.image_widths.size() - 1)) +
           " times smaller, the VAE's " + std::to_string(factor) + " times");
  }
}

at::Tensor ControlNet::embed(const at::Tensor& image) const {
  auto x = image.to(down_.dtype()).contiguous(at::MemoryFormat::ChannelsLast);
  for (size_t i = 0; i + 1 < picture_.size(); ++i) x = at::silu(picture_[i](x));
  return picture_.back()(x);
}

void ControlNet::operator()(const at::Tensor& latents, const at::Tensor& timesteps, const at::Tensor& picture,
                            double scale, AttentionContext& context, Conditions& conditions) const {
  const auto shifts = down_.time_shifts(down_.time_embedding(timesteps, conditions, context.k_states.size(0)));
  // A model for inpainting has mask and masked picture behind the latents.
  const auto x = down_.enter(latents.narrow(1, 0, spec_.unet.in_channels)) + picture;
  auto shift = shifts.begin();
  const auto features = down_(down_.wordless(x, shifts, context.cancel), shift, context);
  const auto add = [&](at::Tensor& sum, const at::Tensor& residual) {
    sum = sum.defined() ? sum + scale * residual : scale * residual;
  };
  conditions.down_residuals.resize(zero_.size());
  for (size_t i = 0; i < zero_.size(); ++i) add(conditions.down_residuals[i], zero_[i](features.skips[i]));
  add(conditions.mid_residual, zero_middle_(features.middle));
}

}  // namespace swap
