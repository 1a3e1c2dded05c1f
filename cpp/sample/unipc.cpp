// UniPC, https://arxiv.org/abs/2302.04867: a multistep predictor, and a corrector that redoes the last step with the
// output at its end.
#include <algorithm>
#include <cmath>
#include <deque>
#include <string>

#include "runtime/error.h"
#include "sample/prediction.h"
#include "sample/scheduler.h"
#include "sample/sigmas.h"

namespace swap {
namespace {

bool is_bh1(const SchedulerSpec& spec) {
  if (spec.solver_type == "bh1") return true;
  if (spec.solver_type == "bh2") return false;
  throw Error("SWAP_SCHEDULER_OPTION", "UniPC has no solver type '" + spec.solver_type + "'", "choose bh1 or bh2");
}

class UniPc : public Scheduler {
 public:
  UniPc(const SchedulerSpec& spec, int64_t steps) : spec_(spec), type_(prediction_type(spec)), bh1_(is_bh1(spec)) {
    if (spec.solver_order < 1) {
      throw Error("SWAP_SCHEDULER_OPTION", "UniPC has no order " + std::to_string(spec.solver_order),
                  "choose 1, 2 or 3");
    }
    if (!spec.predict_x0 && spec.final_sigmas_type == "zero") {
      throw Error("SWAP_SCHEDULER_OPTION", "UniPC on the predicted noise cannot step to a final sigma of zero",
                  "set predict_x0, or final_sigmas_type to sigma_min");
    }
    if (spec.solver_order > 1 && !spec.lower_order_final && spec.final_sigmas_type == "zero") {
      throw Error("SWAP_SCHEDULER_OPTION", "UniPC cannot step to a final sigma of zero with a higher order",
                  "set lower_order_final, or final_sigmas_type to sigma_min");
    }
    SigmaSchedule schedule = solver_schedule(spec, steps, spec.noise.train_timesteps);
    timesteps_ = std::move(schedule.timesteps);
    for (const float sigma : schedule.sigmas) levels_.push_back(noise_level(sigma));
  }

  at::Tensor add_noise(const at::Tensor& image, const at::Tensor& noise, int64_t i) const override {
    return noisy(image, noise, levels_.at(i).alpha, levels_.at(i).sigma);
  }

 protected:
  at::Tensor advance(const at::Tensor& output, int64_t i, const at::Tensor& sample, Noise& /*noise*/) override {
    const auto& [alpha, sigma, lambda] = levels_[i];
    at::Tensor prediction;
    if (spec_.predict_x0) {
      prediction = predicted_image(type_, output, sample, alpha, sigma);
      if (spec_.thresholding) prediction = threshold(prediction, spec_);
    } else {
      prediction = predicted_noise(type_, output, sample, alpha, sigma);
    }

    const auto& skipped = spec_.disable_corrector;
    const bool correct = i > begin_ && std::find(skipped.begin(), skipped.end(), i - 1) == skipped.end();
    start_ = correct ? update(start_, i, prediction) : sample;

    predictions_.push_front(prediction);
    if (static_cast<int64_t>(predictions_.size()) > spec_.solver_order) predictions_.pop_back();
    order_ = std::min(spec_.solver_order, i - begin_ + 1);
    if (spec_.lower_order_final) order_ = std::min(order_, static_cast<int64_t>(timesteps_.size()) - i);
    return update(start_, i + 1, {});
  }

 private:
  // From `start`, at level t - 1, to level t, with the predictions at the levels t - 1, t - 2, … and, in the
  // corrector, `arrived`, the one at t.
  at::Tensor update(const at::Tensor& start, int64_t t, const at::Tensor& arrived) const {
    const NoiseLevel &to = levels_[t], &from = levels_[t - 1];
    const float h = to.lambda - from.lambda;
    // A schedule that already ended at its smallest sigma.
    if (h == 0) return start;
    const float hh = spec_.predict_x0 ? -h : h;
    const float scale = spec_.predict_x0 ? to.alpha : to.sigma;
    const float keep = spec_.predict_x0 ? to.sigma / from.sigma : to.alpha / from.alpha;
    const float b_h = bh1_ ? hh : std::expm1(hh);

    std::vector<float> ratios;
    std::vector<at::Tensor> differences;
    for (int64_t k = 1; k < order_; ++k) {
      ratios.push_back((levels_[t - 1 - k].lambda - from.lambda) / h);
      differences.push_back((predictions_[k] - predictions_[0]) / ratios.back());
    }
    if (arrived.defined()) {
      ratios.push_back(1);
      differences.push_back(arrived - predictions_[0]);
    }

    at::Tensor next = start * keep - predictions_[0] * (scale * std::expm1(hh));
    if (differences.empty()) return next;
    const std::vector<float> rho = solve(ratios, hh, b_h);
    for (size_t k = 0; k < rho.size(); ++k) next = next - differences[k] * (scale * b_h * rho[k]);
    return next;
  }

  // The weights of the differences: sum over k of rho[k] * ratios[k]^n = n! * phi[n] / b_h for n = 1, 2, …, with
  // phi[n] the remainders of the exponential series. Of first order, one half serves.
  static std::vector<float> solve(const std::vector<float>& ratios, float hh, float b_h) {
    const auto count = static_cast<int64_t>(ratios.size());
    if (count == 1) return {0.5F};
    at::Tensor matrix = at::empty({count, count}, at::kFloat), target = at::empty({count}, at::kFloat);
    float phi = std::expm1(hh) / hh - 1, factorial = 1;
    for (int64_t n = 0; n < count; ++n) {
      for (int64_t k = 0; k < count; ++k) {
        matrix.data_ptr<float>()[n * count + k] = std::pow(ratios[k], static_cast<float>(n));
      }
      target.data_ptr<float>()[n] = phi * factorial / b_h;
      factorial *= static_cast<float>(n + 2);
      phi = phi / hh - 1 / factorial;
    }
    const at::Tensor rho = at::linalg_solve(matrix, target);
    return {rho.data_ptr<float>(), rho.data_ptr<float>() + count};
  }

  const SchedulerSpec spec_;
  const Prediction type_;
  const bool bh1_;
  std::vector<NoiseLevel> levels_;
  std::deque<at::Tensor> predictions_;  // the latest first
  at::Tensor start_;                    // of the step that the corrector may redo
  int64_t order_ = 1;                   // of that step
};

}  // namespace

std::unique_ptr<Scheduler> make_unipc(const SchedulerSpec& spec, int64_t steps) {
  return std::make_unique<UniPc>(spec, steps);
}

}  // namespace swap
