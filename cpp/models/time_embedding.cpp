#include "models/time_embedding.h"

#include <cmath>

namespace swap {
namespace {

// values [N] -> [N, width] fp32: cosines and sines of falling frequencies.
at::Tensor sinusoids(const at::Tensor& values, int64_t width, bool cosines_first, double freq_shift) {
  const int64_t half = width / 2;
  const auto exponent = at::arange(half, at::TensorOptions().dtype(at::kFloat).device(values.device())) *
                        (-std::log(10000.0) / (static_cast<double>(half) - freq_shift));
  const auto angles = values.to(at::kFloat).unsqueeze(1) * at::exp(exponent).unsqueeze(0);
  const auto sine = at::sin(angles), cosine = at::cos(angles);
  const auto both = cosines_first ? at::cat({cosine, sine}, 1) : at::cat({sine, cosine}, 1);
  return width % 2 == 0 ? both : at::constant_pad_nd(both, {0, 1});
}

}  // namespace

TimeEmbedding::TimeEmbedding(const Scope& scope, const UNetSpec& spec) : spec_(spec) {
  const int64_t base = spec.levels[0].channels, width = 4 * base;
  const Scope time = scope / "time_embedding", add = scope / "add_embedding";
  linear1_ = Linear(time / "linear_1", base, width);
  linear2_ = Linear(time / "linear_2", width, width);
  if (spec.guidance_width > 0) guidance_ = Linear(time / "cond_proj", spec.guidance_width, base, false);
  if (spec.pooled_width > 0) {
    add1_ = Linear(add / "linear_1", spec.pooled_width + 6 * spec.time_id_width, width);
    add2_ = Linear(add / "linear_2", width, width);
  }
}

at::Tensor TimeEmbedding::operator()(const at::Tensor& timesteps, const Conditions& conditions) const {
  const auto dtype = linear1_.weight.scalar_type();
  const auto embed = [&](const at::Tensor& values, int64_t width) {
    return sinusoids(values, width, spec_.flip_sin_to_cos, spec_.freq_shift);
  };
  auto embedding = embed(timesteps, spec_.levels[0].channels).to(dtype);
  if (guidance_.weight.defined() && conditions.guidance.defined()) {
    // Sines first and a shift of 1, whatever the timesteps have.
    embedding = embedding + guidance_(sinusoids(conditions.guidance * 1000, spec_.guidance_width, false, 1).to(dtype));
  }
  auto time = linear2_(at::silu(linear1_(embedding)));
  if (add1_.weight.defined()) {
    const int64_t B = timesteps.size(0);
    const auto &pooled = conditions.pooled, &sizes = conditions.time_ids;
    if (!pooled.defined() || !sizes.defined() || pooled.sizes() != at::IntArrayRef({B, spec_.pooled_width}) ||
        sizes.sizes() != at::IntArrayRef({B, 6})) {
      throw Error("SWAP_ENGINE_ARGUMENT", "the U-Net takes a pooled state of width " +
                                              std::to_string(spec_.pooled_width) + " and six sizes for each sample");
    }
    const auto joined = at::cat({pooled.to(at::kFloat), embed(sizes.flatten(), spec_.time_id_width).view({B, -1})}, 1);
    time = time + add2_(at::silu(add1_(joined.to(dtype))));
  }
  return at::silu(time);
}

}  // namespace swap
