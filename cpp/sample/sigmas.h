// Schedules as the ratio of noise to image, sigma = sqrt((1 - a) / a), a of alphas_cumprod: what Euler and the
// multistep solvers work with.
#pragma once

#include <cstdint>
#include <vector>

#include "engine.h"

namespace swap {

struct SigmaSchedule {
  std::vector<double> timesteps;
  std::vector<float> sigmas;  // one at each timestep, then where the last step arrives
};

// By timestep. With zero_terminal_snr the last is large but finite.
std::vector<float> training_sigmas(const NoiseSpec& noise);

// Both throw SWAP_SCHEDULER_STEPS, SWAP_SCHEDULER_OPTION.
SigmaSchedule euler_schedule(const SchedulerSpec& spec, int64_t steps);
// For DPM-Solver++ and UniPC, on the timesteps below `end`.
SigmaSchedule solver_schedule(const SchedulerSpec& spec, int64_t steps, int64_t end);

// A level of noise: sample = alpha * image + sigma * noise with alpha^2 + sigma^2 = 1; lambda = log(alpha / sigma).
struct NoiseLevel {
  float alpha, sigma, lambda;
};
NoiseLevel noise_level(float sigma);

}  // namespace swap
