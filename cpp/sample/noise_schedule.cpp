#include "sample/noise_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "runtime/error.h"

namespace swap {
namespace {

// Glide's cosine schedule.
at::Tensor cosine_betas(int64_t count) {
  const auto alpha_bar = [](double t) { return std::pow(std::cos((t + 0.008) / 1.008 * std::numbers::pi / 2), 2); };
  at::Tensor betas = at::empty({count}, at::kDouble);
  for (int64_t i = 0; i < count; ++i) {
    const double t = static_cast<double>(i) / static_cast<double>(count);
    const double next = static_cast<double>(i + 1) / static_cast<double>(count);
    betas.data_ptr<double>()[i] = std::min(1 - alpha_bar(next) / alpha_bar(t), 0.999);
  }
  return betas.to(at::kFloat);
}

at::Tensor make_betas(const NoiseSpec& noise) {
  const int64_t count = noise.train_timesteps;
  if (!noise.trained_betas.empty()) {
    if (static_cast<int64_t>(noise.trained_betas.size()) != count) {
      throw Error("SWAP_SCHEDULER_OPTION", std::to_string(noise.trained_betas.size()) + " trained betas for " +
                                               std::to_string(count) + " training timesteps");
    }
    return at::tensor(noise.trained_betas, at::kDouble).to(at::kFloat);
  }
  if (noise.beta_schedule == "linear") return at::linspace(noise.beta_start, noise.beta_end, count, at::kFloat);
  if (noise.beta_schedule == "scaled_linear") {
    return at::linspace(std::sqrt(noise.beta_start), std::sqrt(noise.beta_end), count, at::kFloat).square();
  }
  if (noise.beta_schedule == "squaredcos_cap_v2") return cosine_betas(count);
  throw Error("SWAP_SCHEDULER_OPTION", "there is no beta schedule '" + noise.beta_schedule + "'",
              "choose linear, scaled_linear or squaredcos_cap_v2");
}

// Shifts and scales sqrt(alphas_cumprod) so that the first stays and the last becomes 0.
at::Tensor rescale_to_zero_snr(const at::Tensor& betas) {
  const at::Tensor root = (1 - betas).cumprod(0).sqrt();
  const float first = root[0].item<float>(), last = root[-1].item<float>();
  const at::Tensor cumprod = ((root - last) * (first / (first - last))).square();
  const at::Tensor alphas = cumprod.slice(0, 1) / cumprod.slice(0, 0, -1);
  return 1 - at::cat({cumprod.slice(0, 0, 1), alphas});
}

[[noreturn]] void too_many(int64_t steps, int64_t end) {
  throw Error("SWAP_SCHEDULER_STEPS",
              std::to_string(steps) + " steps do not fit on " + std::to_string(end) + " timesteps",
              "choose fewer steps");
}

}  // namespace

at::Tensor alphas_cumprod(const NoiseSpec& noise) {
  at::Tensor betas = make_betas(noise);
  if (noise.zero_terminal_snr) betas = rescale_to_zero_snr(betas);
  return (1 - betas).cumprod(0);
}

std::vector<float> to_floats(const at::Tensor& tensor) {
  const at::Tensor values = tensor.to(at::kFloat).contiguous();
  return {values.data_ptr<float>(), values.data_ptr<float>() + values.numel()};
}

std::vector<double> linspace(double first, double last, int64_t count) {
  std::vector<double> values(static_cast<size_t>(count), first);
  if (count < 2) return values;
  const double delta = (last - first) / static_cast<double>(count - 1);
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<double>(i) * delta + first;
  values.back() = last;
  return values;
}

std::vector<double> spaced_timesteps(const SchedulerSpec& spec, int64_t steps, int64_t end, bool past_end) {
  const int64_t points = steps + (past_end ? 1 : 0);
  std::vector<double> timesteps;
  if (end < 1) too_many(steps, end);
  if (spec.timestep_spacing == "linspace") {
    timesteps = linspace(0, static_cast<double>(end - 1), points);
    std::reverse(timesteps.begin(), timesteps.end());
    timesteps.resize(static_cast<size_t>(steps));
  } else if (spec.timestep_spacing == "leading") {
    const int64_t ratio = end / points;
    if (ratio < 1) too_many(steps, end);
    for (int64_t i = points - 1; i >= points - steps; --i) {
      timesteps.push_back(static_cast<double>(i * ratio + spec.steps_offset));
    }
  } else if (spec.timestep_spacing == "trailing") {
    // The ratio is that of the whole schedule also where `end` cuts it, so there may be fewer than `steps`, never more
    // (diffusers makes one more, at timestep -1, where the ratio's rounding error leaves room for it: 61 steps of
    // 1000).
    const auto first = static_cast<double>(end);
    const double ratio = static_cast<double>(spec.noise.train_timesteps) / static_cast<double>(steps);
    const double delta = (first - ratio) - first;
    for (int64_t i = 0; i < steps; ++i) {
      const double timestep = std::nearbyint(first + static_cast<double>(i) * delta) - 1;
      if (timestep >= 0) timesteps.push_back(timestep);
    }
  } else {
    throw Error("SWAP_SCHEDULER_OPTION", "there is no timestep spacing '" + spec.timestep_spacing + "'",
                "choose leading, trailing or linspace");
  }
  return timesteps;
}

std::vector<double> indexable_timesteps(const SchedulerSpec& spec, int64_t steps) {
  const int64_t end = spec.noise.train_timesteps;
  std::vector<double> timesteps = rounded(spaced_timesteps(spec, steps, end, false));
  if (timesteps.front() >= static_cast<double>(end) || timesteps.back() < 0) {
    throw Error("SWAP_SCHEDULER_STEPS",
                std::to_string(steps) + " steps with the offset " + std::to_string(spec.steps_offset) + " leave the " +
                    std::to_string(end) + " timesteps of training",
                "choose fewer steps");
  }
  return timesteps;
}

std::vector<double> rounded(std::vector<double> values) {
  for (double& value : values) value = std::nearbyint(value);
  return values;
}

}  // namespace swap
