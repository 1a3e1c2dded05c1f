// The noise that a model was trained with, and which of its timesteps a sampler visits.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "engine.h"

namespace swap {

// Cumulative products of 1 - beta, [train_timesteps] float32: a sample at timestep t is
// sqrt(a[t]) * image + sqrt(1 - a[t]) * noise. With zero_terminal_snr the last is 0 (https://arxiv.org/abs/2305.08891).
// Throws SWAP_SCHEDULER_OPTION.
at::Tensor alphas_cumprod(const NoiseSpec& noise);
std::vector<float> to_floats(const at::Tensor& tensor);

// `count` numbers from `first` to `last`, both included.
std::vector<double> linspace(double first, double last, int64_t count);

// Where the spacing of `spec` puts `steps` steps on the timesteps 0 … end - 1, in descending order.
// With `past_end` the lowest point of "linspace" and "leading" is where the last step arrives, so it is not visited.
// "linspace" is fractional; the others are whole. Throws SWAP_SCHEDULER_STEPS, SWAP_SCHEDULER_OPTION.
std::vector<double> spaced_timesteps(const SchedulerSpec& spec, int64_t steps, int64_t end, bool past_end);

// The same for schedulers that look up alphas_cumprod at whole timesteps, each within 0 … train_timesteps - 1.
std::vector<double> indexable_timesteps(const SchedulerSpec& spec, int64_t steps);

// To the nearest, halves to even.
std::vector<double> rounded(std::vector<double> values);

}  // namespace swap
