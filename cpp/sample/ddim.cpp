// DDIM without added noise (eta = 0), https://arxiv.org/abs/2010.02502.
#include <cmath>

#include "runtime/error.h"
#include "sample/noise_schedule.h"
#include "sample/prediction.h"
#include "sample/scheduler.h"

namespace swap {
namespace {

class Ddim : public Scheduler {
 public:
  Ddim(const SchedulerSpec& spec, int64_t steps)
      : spec_(spec), type_(prediction_type(spec)), alphas_(to_floats(alphas_cumprod(spec.noise))) {
    timesteps_ = indexable_timesteps(spec, steps);
    stride_ = spec.noise.train_timesteps / steps;
    final_alpha_ = spec.set_alpha_to_one ? 1.0F : alphas_[0];
    if (type_ == Prediction::Epsilon && alphas_[static_cast<size_t>(timesteps_.front())] == 0) {
      throw Error("SWAP_SCHEDULER_OPTION", "a model that predicts epsilon says nothing at zero terminal SNR",
                  "use leading spacing, or a model with v_prediction");
    }
  }

  at::Tensor add_noise(const at::Tensor& image, const at::Tensor& noise, int64_t i) const override {
    const float alpha = alphas_.at(static_cast<size_t>(timesteps_.at(i)));
    return noisy(image, noise, std::sqrt(alpha), std::sqrt(1 - alpha));
  }

 protected:
  at::Tensor advance(const at::Tensor& output, int64_t i, const at::Tensor& sample, Noise& /*noise*/) override {
    const auto timestep = static_cast<int64_t>(timesteps_[i]);
    const int64_t previous = timestep - stride_;
    const float alpha_here = alphas_[timestep], alpha_there = previous >= 0 ? alphas_[previous] : final_alpha_;
    const float alpha = std::sqrt(alpha_here), sigma = std::sqrt(1 - alpha_here);

    at::Tensor image = predicted_image(type_, output, sample, alpha, sigma);
    const at::Tensor direction = predicted_noise(type_, output, sample, alpha, sigma);
    if (spec_.thresholding) {
      image = threshold(image, spec_);
    } else if (spec_.clip_sample) {
      image = image.clamp(-spec_.clip_sample_range, spec_.clip_sample_range);
    }
    return image * std::sqrt(alpha_there) + direction * std::sqrt(1 - alpha_there);
  }

 private:
  const SchedulerSpec spec_;
  const Prediction type_;
  const std::vector<float> alphas_;
  int64_t stride_ = 1;
  float final_alpha_ = 1;
};

}  // namespace

std::unique_ptr<Scheduler> make_ddim(const SchedulerSpec& spec, int64_t steps) {
  return std::make_unique<Ddim>(spec, steps);
}

}  // namespace swap
