// Schedulers: which timesteps the U-Net is asked at, and how its output moves the sample from one to the next.
//
// Each is a small state machine that equals the class of the same name in diffusers, step by step; what differs is
// said where it differs. All arithmetic is float32, whatever the U-Net computes in.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "engine.h"
#include "sample/noise.h"

namespace swap {

// Good for one trajectory: for i = begin(), begin() + 1, …, timesteps().size() - 1, in this order,
//   output = unet(scale_model_input(sample, i), timesteps()[i]);  sample = step(output, i, sample, noise).
class Scheduler {
 public:
  virtual ~Scheduler() = default;
  Scheduler() = default;
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // One for every call of the U-Net. PNDM repeats some; Euler's are fractional.
  const std::vector<double>& timesteps() const { return timesteps_; }

  // The first sample is standard normal noise times this.
  double init_noise_sigma() const { return init_noise_sigma_; }

  // Leaves out the first calls, where the first sample is add_noise(image, noise, begin()). To be said before any
  // step. Throws SWAP_SCHEDULER_STEPS where no call is left.
  void begin_at(int64_t call);
  int64_t begin() const { return begin_; }

  // `image` with as much of `noise` in it as call i expects; all [images, ...] float32.
  virtual at::Tensor add_noise(const at::Tensor& image, const at::Tensor& noise, int64_t i) const = 0;

  virtual at::Tensor scale_model_input(const at::Tensor& sample, int64_t /*i*/) const { return sample; }

  // `model_output` and `sample` are [images, ...] of any floating dtype; the result is float32.
  // `noise` is drawn from by the stochastic schedulers only. Throws SWAP_SCHEDULER_CALL, SWAP_TENSOR_SHAPE.
  at::Tensor step(const at::Tensor& model_output, int64_t i, const at::Tensor& sample, Noise& noise);

 protected:
  virtual at::Tensor advance(const at::Tensor& output, int64_t i, const at::Tensor& sample, Noise& noise) = 0;

  std::vector<double> timesteps_;
  double init_noise_sigma_ = 1;
  int64_t begin_ = 0;

 private:
  int64_t next_ = 0;
};

// Throws SWAP_SCHEDULER_UNKNOWN (kind), SWAP_SCHEDULER_STEPS (this many steps cannot be made),
// SWAP_SCHEDULER_OPTION (a value that the kind does not have, or that contradicts another).
std::unique_ptr<Scheduler> make_scheduler(const SchedulerSpec& spec, int64_t steps);

// What make_scheduler chooses from, one a file.
std::unique_ptr<Scheduler> make_ddim(const SchedulerSpec& spec, int64_t steps);
std::unique_ptr<Scheduler> make_pndm(const SchedulerSpec& spec, int64_t steps);
std::unique_ptr<Scheduler> make_euler(const SchedulerSpec& spec, int64_t steps);
std::unique_ptr<Scheduler> make_euler_ancestral(const SchedulerSpec& spec, int64_t steps);
std::unique_ptr<Scheduler> make_dpm_solver(const SchedulerSpec& spec, int64_t steps);
std::unique_ptr<Scheduler> make_unipc(const SchedulerSpec& spec, int64_t steps);
std::unique_ptr<Scheduler> make_lcm(const SchedulerSpec& spec, int64_t steps);

}  // namespace swap
