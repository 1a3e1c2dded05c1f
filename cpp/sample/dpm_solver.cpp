// Multistep DPM-Solver++ (https://arxiv.org/abs/2211.01095) of order 1 to 3, its stochastic variant, and DPM-Solver
// (https://arxiv.org/abs/2206.00927), which works on the predicted noise in place of the image.
#include <algorithm>
#include <cmath>
#include <deque>
#include <string>

#include "runtime/error.h"
#include "sample/noise_schedule.h"
#include "sample/prediction.h"
#include "sample/scheduler.h"
#include "sample/sigmas.h"

namespace swap {
namespace {

enum class Algorithm { Noise, Image, StochasticImage };

Algorithm algorithm(const SchedulerSpec& spec) {
  if (spec.algorithm_type == "dpmsolver++") return Algorithm::Image;
  if (spec.algorithm_type == "dpmsolver") return Algorithm::Noise;
  if (spec.algorithm_type == "sde-dpmsolver++") return Algorithm::StochasticImage;
  throw Error("SWAP_SCHEDULER_OPTION", "there is no algorithm '" + spec.algorithm_type + "'",
              "choose dpmsolver++, sde-dpmsolver++ or dpmsolver");
}

bool is_heun(const SchedulerSpec& spec) {
  if (spec.solver_type == "midpoint") return false;
  if (spec.solver_type == "heun") return true;
  throw Error("SWAP_SCHEDULER_OPTION", "DPM-Solver++ has no solver type '" + spec.solver_type + "'",
              "choose midpoint or heun");
}

// How many timesteps have a lambda that is not below lambda_min_clipped: the first ones.
int64_t usable_timesteps(const SchedulerSpec& spec) {
  const std::vector<float> sigmas = training_sigmas(spec.noise);
  const auto clip = static_cast<float>(spec.lambda_min_clipped);
  return std::count_if(sigmas.begin(), sigmas.end(), [clip](float sigma) { return noise_level(sigma).lambda >= clip; });
}

// next = keep * sample + first * d0 + second * d1 + third * d2 + fresh * noise: d0 is the prediction, d1 and d2 its
// derivatives by lambda in units of the step.
struct Weights {
  float keep, first, second, third, fresh;
};

Weights weights(Algorithm algorithm, bool heun, const NoiseLevel& from, const NoiseLevel& to) {
  const float h = to.lambda - from.lambda;
  switch (algorithm) {
    case Algorithm::Noise: {
      const float e = std::exp(h) - 1;
      return {to.alpha / from.alpha, -(to.sigma * e), heun ? -(to.sigma * (e / h - 1)) : -0.5F * (to.sigma * e),
              -(to.sigma * ((e - h) / (h * h) - 0.5F)), 0};
    }
    case Algorithm::Image: {
      const float e = std::exp(-h) - 1;
      return {to.sigma / from.sigma, -(to.alpha * e), heun ? to.alpha * (e / h + 1) : -0.5F * (to.alpha * e),
              -(to.alpha * ((e + h) / (h * h) - 0.5F)), 0};
    }
    default: {
      const float e = 1 - std::exp(-2 * h);
      return {to.sigma / from.sigma * std::exp(-h), to.alpha * e,
              heun ? to.alpha * (e / (-2 * h) + 1) : 0.5F * (to.alpha * e),
              to.alpha * ((e - 2 * h) / (4 * h * h) - 0.5F), to.sigma * std::sqrt(e)};
    }
  }
}

class DpmSolver : public Scheduler {
 public:
  DpmSolver(const SchedulerSpec& spec, int64_t steps)
      : spec_(spec), type_(prediction_type(spec)), algorithm_(algorithm(spec)), heun_(is_heun(spec)) {
    if (spec.solver_order < 1 || spec.solver_order > 3) {
      throw Error("SWAP_SCHEDULER_OPTION", "DPM-Solver++ has no order " + std::to_string(spec.solver_order),
                  "choose 1, 2 or 3");
    }
    if (algorithm_ == Algorithm::Noise && spec.final_sigmas_type == "zero") {
      throw Error("SWAP_SCHEDULER_OPTION", "the algorithm 'dpmsolver' cannot step to a final sigma of zero",
                  "set final_sigmas_type to sigma_min, or choose dpmsolver++");
    }
    SigmaSchedule schedule = solver_schedule(spec, steps, usable_timesteps(spec));
    timesteps_ = std::move(schedule.timesteps);
    for (const float sigma : schedule.sigmas) levels_.push_back(noise_level(sigma));
  }

  at::Tensor add_noise(const at::Tensor& image, const at::Tensor& noise, int64_t i) const override {
    return noisy(image, noise, levels_.at(i).alpha, levels_.at(i).sigma);
  }

 protected:
  at::Tensor advance(const at::Tensor& output, int64_t i, const at::Tensor& sample, Noise& noise) override {
    predictions_.push_front(convert(output, i, sample));
    if (static_cast<int64_t>(predictions_.size()) > spec_.solver_order) predictions_.pop_back();
    const int64_t order = order_at(i);
    const NoiseLevel &from = levels_[i], &to = levels_[i + 1];
    const float h = to.lambda - from.lambda;
    // A schedule that already ended at its smallest sigma.
    if (h == 0) return sample;

    // Every solver of third order has its second derivative weighted as Heun's.
    const Weights w = weights(algorithm_, heun_ || order == 3, from, to);
    at::Tensor next = sample * w.keep + predictions_[0] * w.first;
    if (order > 1) {
      const float r0 = (from.lambda - levels_[i - 1].lambda) / h;
      at::Tensor d1 = (predictions_[0] - predictions_[1]) / r0;
      if (order > 2) {
        const float r1 = (levels_[i - 1].lambda - levels_[i - 2].lambda) / h;
        const at::Tensor change = d1 - (predictions_[1] - predictions_[2]) / r1;
        d1 = d1 + change * (r0 / (r0 + r1));
        next = next + change * (w.third / (r0 + r1));
      }
      next = next + d1 * w.second;
    }
    if (algorithm_ == Algorithm::StochasticImage) next = next + noise.like(sample) * w.fresh;
    return next;
  }

 private:
  // The first steps have no history; the last ones are more stable with a lower order when there are few.
  int64_t order_at(int64_t i) const {
    const auto calls = static_cast<int64_t>(timesteps_.size());
    const bool few = spec_.lower_order_final && calls < 15;
    int64_t order = std::min(spec_.solver_order, i - begin_ + 1);
    if (i == calls - 1 && (few || spec_.euler_at_final || spec_.final_sigmas_type == "zero")) order = 1;
    if (i == calls - 2 && few) order = std::min<int64_t>(order, 2);
    return order;
  }

  // To what the algorithm integrates.
  at::Tensor convert(const at::Tensor& output, int64_t i, const at::Tensor& sample) const {
    const auto& [alpha, sigma, lambda] = levels_[i];
    if (algorithm_ == Algorithm::Noise && !spec_.thresholding)
      return predicted_noise(type_, output, sample, alpha, sigma);
    at::Tensor image = predicted_image(type_, output, sample, alpha, sigma);
    if (spec_.thresholding) image = threshold(image, spec_);
    return algorithm_ == Algorithm::Noise ? predicted_noise(Prediction::Sample, image, sample, alpha, sigma) : image;
  }

  const SchedulerSpec spec_;
  const Prediction type_;
  const Algorithm algorithm_;
  const bool heun_;
  std::vector<NoiseLevel> levels_;
  std::deque<at::Tensor> predictions_;  // the latest first
};

}  // namespace

std::unique_ptr<Scheduler> make_dpm_solver(const SchedulerSpec& spec, int64_t steps) {
  return std::make_unique<DpmSolver>(spec, steps);
}

}  // namespace swap
