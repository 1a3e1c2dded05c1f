#include "models/vae.h"

#include "attention/self_attention.h"

namespace swap {
namespace {
constexpr double kEps = 1e-6;  // of every norm in AutoencoderKL
}

Vae::Attention::Attention(const Scope& scope, int64_t c, int64_t groups)
    : norm(scope / "group_norm", c, groups, kEps),
      q(scope / "to_q", c, c),
      k(scope / "to_k", c, c),
      v(scope / "to_v", c, c),
      out(scope / "to_out" / 0, c, c) {}

at::Tensor Vae::Attention::operator()(const at::Tensor& x) const {
  const auto pixels = rows_of_picture(norm(x));
  const auto attended = self_attention(q(pixels).unsqueeze(1), k(pixels).unsqueeze(1), v(pixels).unsqueeze(1));
  return picture_of_rows(out(attended.squeeze(1), nullptr, rows_of_picture(x)), x.size(2), x.size(3));
}

Vae::Middle::Middle(const Scope& scope, int64_t c, const VaeSpec& spec)
    : first(scope / "resnets" / 0, c, c, 0, spec.norm_groups, kEps),
      second(scope / "resnets" / 1, c, c, 0, spec.norm_groups, kEps) {
  if (spec.mid_attention) attention.emplace(scope / "attentions" / 0, c, spec.norm_groups);
}

at::Tensor Vae::Middle::operator()(const at::Tensor& x, const Cancel& cancel) const {
  auto h = first(x);
  cancel.check();
  if (attention) h = (*attention)(h);
  cancel.check();
  return second(h);
}

Vae::Vae(const Scope& scope, const VaeSpec& spec) : spec_(spec) {
  const auto& channels = spec.channels;
  const int64_t levels = static_cast<int64_t>(channels.size()), groups = spec.norm_groups;

  const Scope enc = scope / "encoder";
  encoder_.conv_in = Conv2d(enc / "conv_in", spec.in_channels, channels[0], 3, 1, 1);
  int64_t in = channels[0];
  for (int64_t i = 0; i < levels; ++i) {
    const Scope block = enc / "down_blocks" / i;
    Level level;
    for (int64_t j = 0; j < spec.layers; ++j) {
      level.resnets.emplace_back(block / "resnets" / j, in, channels[i], 0, groups, kEps);
      in = channels[i];
    }
    if (i + 1 < levels) level.resample = Conv2d(block / "downsamplers" / 0 / "conv", in, in, 3, 2, 0);
    encoder_.levels.push_back(std::move(level));
  }
  encoder_.middle.emplace(enc / "mid_block", in, spec);
  encoder_.norm_out = GroupNorm(enc / "conv_norm_out", in, groups, kEps);
  encoder_.conv_out = Conv2d(enc / "conv_out", in, 2 * spec.latent_channels, 3, 1, 1);
  dtype_ = encoder_.conv_in.weight.scalar_type();

  const Scope dec = scope / "decoder";
  decoder_.conv_in = Conv2d(dec / "conv_in", spec.latent_channels, in, 3, 1, 1);
  decoder_.middle.emplace(dec / "mid_block", in, spec);
  for (int64_t i = 0; i < levels; ++i) {
    const Scope block = dec / "up_blocks" / i;
    const int64_t out = channels[levels - 1 - i];
    Level level;
    for (int64_t j = 0; j <= spec.layers; ++j) {
      level.resnets.emplace_back(block / "resnets" / j, in, out, 0, groups, kEps);
      in = out;
    }
    if (i + 1 < levels) level.resample = Conv2d(block / "upsamplers" / 0 / "conv", in, in, 3, 1, 1);
    decoder_.levels.push_back(std::move(level));
  }
  decoder_.norm_out = GroupNorm(dec / "conv_norm_out", in, groups, kEps);
  decoder_.conv_out = Conv2d(dec / "conv_out", in, spec.out_channels, 3, 1, 1);

  if (spec.quant_conv) quant_ = Conv2d(scope / "quant_conv", 2 * spec.latent_channels, 2 * spec.latent_channels, 1);
  if (spec.post_quant_conv)
    post_quant_ = Conv2d(scope / "post_quant_conv", spec.latent_channels, spec.latent_channels, 1);
}

std::pair<at::Tensor, at::Tensor> Vae::encode(const at::Tensor& image, const Cancel& cancel) const {
  auto x = encoder_.conv_in(image.to(dtype_).contiguous(at::MemoryFormat::ChannelsLast));
  for (const auto& level : encoder_.levels) {
    for (const auto& resnet : level.resnets) {
      cancel.check();
      x = resnet(x);
    }
    // One row and column of zeros at the far side only, as in the original.
    if (level.resample.weight.defined()) x = level.resample(at::constant_pad_nd(x, {0, 1, 0, 1}));
  }
  x = (*encoder_.middle)(x, cancel);
  x = encoder_.conv_out(encoder_.norm_out.activated(x));
  if (quant_.weight.defined()) x = quant_(x);
  const auto moments = x.to(at::kFloat).chunk(2, 1);
  return {moments[0].contiguous(), at::exp(0.5 * at::clamp(moments[1], -30.0, 20.0)).contiguous()};
}

at::Tensor Vae::decode(const at::Tensor& latents, const Cancel& cancel) const {
  auto x = latents.to(dtype_).contiguous(at::MemoryFormat::ChannelsLast);
  if (post_quant_.weight.defined()) x = post_quant_(x);
  x = (*decoder_.middle)(decoder_.conv_in(x), cancel);
  for (const auto& level : decoder_.levels) {
    for (const auto& resnet : level.resnets) {
      cancel.check();
      x = resnet(x);
    }
    if (level.resample.weight.defined()) {
      x = level.resample(at::upsample_nearest2d(x, {x.size(2) * 2, x.size(3) * 2}));
    }
  }
  cancel.check();
  return decoder_.conv_out(decoder_.norm_out.activated(x)).to(at::kFloat);
}

}  // namespace swap
