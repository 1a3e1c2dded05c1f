// Latent consistency models, https://arxiv.org/abs/2310.04378: every call goes all the way to the image, and fresh
// noise takes it back to the next timestep.
#include <cmath>
#include <string>

#include "runtime/error.h"
#include "sample/noise_schedule.h"
#include "sample/prediction.h"
#include "sample/scheduler.h"

namespace swap {
namespace {

constexpr float kSigmaData = 0.5F;  // the spread that the model was distilled with

class Lcm : public Scheduler {
 public:
  Lcm(const SchedulerSpec& spec, int64_t steps)
      : spec_(spec), type_(prediction_type(spec)), alphas_(to_floats(alphas_cumprod(spec.noise))) {
    const int64_t end = spec.noise.train_timesteps, original = spec.original_steps;
    if (original < 1 || original > end) {
      throw Error("SWAP_SCHEDULER_OPTION", "an LCM's " + std::to_string(original) +
                                               " original steps are not within 1 to " + std::to_string(end));
    }
    if (steps > original) {
      throw Error("SWAP_SCHEDULER_STEPS",
                  std::to_string(steps) + " steps are more than the " + std::to_string(original) +
                      " that the LCM scheduler chooses from",
                  "choose fewer steps: 4 to 8 are usual");
    }
    // Of the schedule that it was distilled on, the highest first, one in every original / steps.
    const double stride = static_cast<double>(original) / static_cast<double>(steps);
    for (int64_t i = 0; i < steps; ++i) {
      const auto index = static_cast<int64_t>(std::floor(static_cast<double>(i) * stride));
      timesteps_.push_back(static_cast<double>((original - index) * (end / original) - 1));
    }
    if (type_ == Prediction::Epsilon && alphas_[static_cast<size_t>(timesteps_.front())] == 0) {
      throw Error("SWAP_SCHEDULER_OPTION", "a model that predicts epsilon says nothing at zero terminal SNR",
                  "choose another scheduler, or a model with v_prediction");
    }
  }

  at::Tensor add_noise(const at::Tensor& image, const at::Tensor& noise, int64_t i) const override {
    const auto [alpha, sigma] = level(i);
    return noisy(image, noise, alpha, sigma);
  }

 protected:
  at::Tensor advance(const at::Tensor& output, int64_t i, const at::Tensor& sample, Noise& noise) override {
    const auto [alpha, sigma] = level(i);
    at::Tensor image = predicted_image(type_, output, sample, alpha, sigma);
    if (spec_.thresholding) {
      image = threshold(image, spec_);
    } else if (spec_.clip_sample) {
      image = image.clamp(-spec_.clip_sample_range, spec_.clip_sample_range);
    }
    // The consistency function is the sample itself where there is no noise left.
    const auto time = static_cast<float>(timesteps_[i] * spec_.timestep_scaling);
    const float spread = time * time + kSigmaData * kSigmaData;
    image = image * (time / std::sqrt(spread)) + sample * (kSigmaData * kSigmaData / spread);
    if (i + 1 == static_cast<int64_t>(timesteps_.size())) return image;
    return add_noise(image, noise.like(sample), i + 1);
  }

 private:
  std::pair<float, float> level(int64_t i) const {
    const float alpha = alphas_.at(static_cast<size_t>(timesteps_.at(i)));
    return {std::sqrt(alpha), std::sqrt(1 - alpha)};
  }

  const SchedulerSpec spec_;
  const Prediction type_;
  const std::vector<float> alphas_;
};

}  // namespace

std::unique_ptr<Scheduler> make_lcm(const SchedulerSpec& spec, int64_t steps) {
  return std::make_unique<Lcm>(spec, steps);
}

}  // namespace swap
