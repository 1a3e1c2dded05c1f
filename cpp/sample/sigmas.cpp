#include "sample/sigmas.h"

#include <algorithm>
#include <cmath>

#include "runtime/error.h"
#include "sample/beta_distribution.h"
#include "sample/noise_schedule.h"

namespace swap {
namespace {

// The training sigma at a fractional timestep; beyond the ends, the ends.
double sigma_at(const std::vector<float>& training, double timestep) {
  const auto last = static_cast<double>(training.size() - 1);
  if (timestep <= 0) return training.front();
  if (timestep >= last) return training.back();
  const auto low = static_cast<size_t>(timestep);
  const double a = training[low], b = training[low + 1];
  return (b - a) * (timestep - static_cast<double>(low)) + a;
}

// Their inverse: the timesteps of `sigmas`, interpolated between the logarithms.
std::vector<double> timesteps_at(const std::vector<float>& training, const std::vector<double>& sigmas) {
  std::vector<float> logs;
  for (const float sigma : training) logs.push_back(std::log(sigma));
  const auto last = static_cast<int64_t>(logs.size()) - 1;
  std::vector<double> timesteps;
  for (const double sigma : sigmas) {
    const double log_sigma = std::log(std::max(sigma, 1e-10));
    const auto above = std::upper_bound(logs.begin(), logs.end(), log_sigma,
                                        [](double value, float entry) { return value < static_cast<double>(entry); });
    const int64_t low = std::clamp<int64_t>(above - logs.begin() - 1, 0, std::max<int64_t>(last - 1, 0));
    const int64_t high = std::min(low + 1, last);
    const double weight = std::clamp((logs[low] - log_sigma) / static_cast<double>(logs[low] - logs[high]), 0.0, 1.0);
    timesteps.push_back((1 - weight) * static_cast<double>(low) + weight * static_cast<double>(high));
  }
  return timesteps;
}

// Other ways to go from a high sigma to a low one; empty for "default".
std::vector<double> spread_sigmas(const SchedulerSpec& spec, int64_t steps, double low, double high) {
  if (spec.sigmas == "default") return {};
  if (spec.sigma_min >= 0) low = spec.sigma_min;
  if (spec.sigma_max >= 0) high = spec.sigma_max;
  std::vector<double> sigmas;
  if (spec.sigmas == "karras") {  // https://arxiv.org/abs/2206.00364, formula (5)
    constexpr double kRho = 7;
    const double from = std::pow(high, 1 / kRho), to = std::pow(low, 1 / kRho);
    for (const double ramp : linspace(0, 1, steps)) sigmas.push_back(std::pow(from + ramp * (to - from), kRho));
  } else if (spec.sigmas == "exponential") {
    for (const double log_sigma : linspace(std::log(high), std::log(low), steps)) sigmas.push_back(std::exp(log_sigma));
  } else if (spec.sigmas == "beta") {  // https://arxiv.org/abs/2407.12173
    for (const double p : linspace(0, 1, steps)) sigmas.push_back(low + beta_quantile(1 - p, 0.6, 0.6) * (high - low));
  } else {
    throw Error("SWAP_SCHEDULER_OPTION", "there are no '" + spec.sigmas + "' sigmas",
                "choose default, karras, exponential or beta");
  }
  return sigmas;
}

double final_sigma(const SchedulerSpec& spec, double sigma_min) {
  if (spec.final_sigmas_type == "zero") return 0;
  if (spec.final_sigmas_type == "sigma_min") return sigma_min;
  throw Error("SWAP_SCHEDULER_OPTION", "there is no final sigma '" + spec.final_sigmas_type + "'",
              "choose zero or sigma_min");
}

std::vector<float> as_floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }

std::vector<double> sigmas_at(const std::vector<float>& training, const std::vector<double>& timesteps) {
  std::vector<double> sigmas;
  for (const double timestep : timesteps) sigmas.push_back(sigma_at(training, timestep));
  return sigmas;
}

}  // namespace

std::vector<float> training_sigmas(const NoiseSpec& noise) {
  at::Tensor alphas = alphas_cumprod(noise);
  // float16's smallest number in place of 0, so that the first sigma is finite.
  if (noise.zero_terminal_snr) alphas[-1] = std::ldexp(1.0, -24);
  return to_floats(((1 - alphas) / alphas).sqrt());
}

SigmaSchedule euler_schedule(const SchedulerSpec& spec, int64_t steps) {
  const std::vector<float> training = training_sigmas(spec.noise);
  std::vector<double> timesteps = spaced_timesteps(spec, steps, spec.noise.train_timesteps, false);
  for (double& timestep : timesteps) timestep = static_cast<float>(timestep);

  std::vector<double> sigmas;
  if (spec.interpolation_type == "linear") {
    sigmas = sigmas_at(training, timesteps);
  } else if (spec.interpolation_type == "log_linear") {
    const at::Tensor log_sigmas =
        at::linspace(std::log(training.back()), std::log(training.front()), steps + 1, at::kFloat);
    const std::vector<float> values = to_floats(log_sigmas.exp());
    sigmas.assign(values.begin(), values.end());
  } else {
    throw Error("SWAP_SCHEDULER_OPTION", "there is no interpolation '" + spec.interpolation_type + "'",
                "choose linear or log_linear");
  }
  if (const auto spread = spread_sigmas(spec, steps, sigmas.back(), sigmas.front()); !spread.empty()) {
    sigmas = spread;
    timesteps = timesteps_at(training, sigmas);
    for (double& timestep : timesteps) timestep = static_cast<float>(timestep);
  }
  // Models that were trained on the sigma itself are asked with it.
  if (spec.timestep_type == "continuous" && spec.noise.prediction_type == "v_prediction") {
    timesteps.clear();
    for (const double sigma : sigmas) timesteps.push_back(0.25F * std::log(static_cast<float>(sigma)));
  } else if (spec.timestep_type != "continuous" && spec.timestep_type != "discrete") {
    throw Error("SWAP_SCHEDULER_OPTION", "there is no timestep type '" + spec.timestep_type + "'",
                "choose discrete or continuous");
  }
  sigmas.push_back(final_sigma(spec, training.front()));
  return {timesteps, as_floats(sigmas)};
}

SigmaSchedule solver_schedule(const SchedulerSpec& spec, int64_t steps, int64_t end) {
  const bool unipc = spec.kind == "unipc";
  const std::vector<float> training = training_sigmas(spec.noise);
  std::vector<double> timesteps = rounded(spaced_timesteps(spec, steps, end, true));
  std::vector<double> sigmas = spread_sigmas(spec, steps, training.front(), training.back());
  double sigma_min = training.front();
  if (sigmas.empty()) {
    sigmas = sigmas_at(training, timesteps);
  } else {
    timesteps = timesteps_at(training, sigmas);
    // The two classes of diffusers differ in details here.
    const bool round = spec.sigmas == "karras" && (unipc || spec.noise.beta_schedule != "squaredcos_cap_v2");
    for (double& timestep : timesteps) timestep = round ? std::nearbyint(timestep) : std::trunc(timestep);
    if (unipc) sigma_min = sigmas.back();
  }
  // A multistep solver divides by the distance between two of them.
  if (std::adjacent_find(sigmas.begin(), sigmas.end()) != sigmas.end()) {
    throw Error("SWAP_SCHEDULER_STEPS", std::to_string(steps) + " steps would visit a level of noise twice",
                "choose fewer steps");
  }
  sigmas.push_back(final_sigma(spec, sigma_min));
  return {timesteps, as_floats(sigmas)};
}

NoiseLevel noise_level(float sigma) {
  const float alpha = 1 / std::sqrt(sigma * sigma + 1);
  return {alpha, sigma * alpha, std::log(alpha) - std::log(sigma * alpha)};
}

}  // namespace swap
