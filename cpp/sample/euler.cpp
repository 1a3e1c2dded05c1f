// Euler's method on the sigmas of https://arxiv.org/abs/2206.00364, and the ancestral variant, which steps further
// down and makes up for it with fresh noise.
#include <algorithm>
#include <cmath>

#include "runtime/error.h"
#include "sample/prediction.h"
#include "sample/scheduler.h"
#include "sample/sigmas.h"

namespace swap {
namespace {

class Euler : public Scheduler {
 public:
  Euler(const SchedulerSpec& spec, int64_t steps, bool ancestral)
      : type_(prediction_type(spec)), ancestral_(ancestral) {
    SigmaSchedule schedule = euler_schedule(spec, steps);
    timesteps_ = std::move(schedule.timesteps);
    sigmas_ = std::move(schedule.sigmas);
    const float largest = *std::max_element(sigmas_.begin(), sigmas_.end());
    init_noise_sigma_ = spec.timestep_spacing == "leading" ? std::sqrt(largest * largest + 1) : largest;
  }

  // From image + sigma * noise to a sample of unit variance.
  at::Tensor scale_model_input(const at::Tensor& sample, int64_t i) const override {
    return sample / std::sqrt(sigmas_[i] * sigmas_[i] + 1);
  }

  at::Tensor add_noise(const at::Tensor& image, const at::Tensor& noise, int64_t i) const override {
    return noisy(image, noise, 1, sigmas_.at(i));
  }

 protected:
  at::Tensor advance(const at::Tensor& output, int64_t i, const at::Tensor& sample, Noise& noise) override {
    const float from = sigmas_[i], to = sigmas_[i + 1];
    const at::Tensor slope = (sample - image(output, sample, from)) / from;
    if (!ancestral_) return sample + slope * (to - from);
    const float up = std::sqrt(to * to * (from * from - to * to) / (from * from));
    const float down = std::sqrt(to * to - up * up);
    return sample + slope * (down - from) + noise.like(sample) * up;
  }

 private:
  at::Tensor image(const at::Tensor& output, const at::Tensor& sample, float sigma) const {
    switch (type_) {
      case Prediction::Epsilon:
        return sample - output * sigma;
      case Prediction::V:
        return output * (-sigma / std::sqrt(sigma * sigma + 1)) + sample / (sigma * sigma + 1);
      default:
        return output;
    }
  }

  const Prediction type_;
  const bool ancestral_;
  std::vector<float> sigmas_;
};

}  // namespace

std::unique_ptr<Scheduler> make_euler(const SchedulerSpec& spec, int64_t steps) {
  return std::make_unique<Euler>(spec, steps, false);
}

std::unique_ptr<Scheduler> make_euler_ancestral(const SchedulerSpec& spec, int64_t steps) {
  if (spec.noise.prediction_type == "sample") {
    throw Error("SWAP_SCHEDULER_OPTION", "Euler ancestral cannot sample a model that predicts the sample",
                "choose ddim, euler, dpm++2m or unipc");
  }
  return std::make_unique<Euler>(spec, steps, true);
}

}  // namespace swap
