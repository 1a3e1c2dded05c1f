// PNDM, https://arxiv.org/abs/2202.09778: pseudo Runge-Kutta steps of four calls each (PRK), then a linear multistep
// method of one call a step (PLMS). Stable Diffusion skips the former; its second timestep is then asked twice.
#include <cmath>
#include <deque>

#include "runtime/error.h"
#include "sample/noise_schedule.h"
#include "sample/prediction.h"
#include "sample/scheduler.h"

namespace swap {
namespace {

constexpr int64_t kPrkSteps = 3, kPrkCalls = 4 * kPrkSteps;

class Pndm : public Scheduler {
 public:
  Pndm(const SchedulerSpec& spec, int64_t steps)
      : type_(prediction_type(spec)),
        alphas_(to_floats(alphas_cumprod(spec.noise))),
        prk_calls_(spec.skip_prk_steps ? 0 : kPrkCalls) {
    if (type_ == Prediction::Sample) {
      throw Error("SWAP_SCHEDULER_OPTION", "PNDM cannot sample a model that predicts the sample",
                  "choose ddim, euler, dpm++2m or unipc");
    }
    const std::vector<double> visited = indexable_timesteps(spec, steps);
    stride_ = spec.noise.train_timesteps / steps;
    final_alpha_ = spec.set_alpha_to_one ? 1.0F : alphas_[0];

    if (spec.skip_prk_steps) {
      timesteps_ = visited;
      if (steps > 1) timesteps_.insert(timesteps_.begin() + 1, visited[1]);
      return;
    }
    if (steps <= kPrkSteps) {
      throw Error("SWAP_SCHEDULER_STEPS", std::to_string(steps) + " steps are too few for PNDM's Runge-Kutta steps",
                  "choose at least 4 steps, or another scheduler");
    }
    // The start, twice half a stride below it, and the end of each step.
    for (int64_t step = 0; step < kPrkSteps; ++step) {
      const double half_way = visited[step + 1] + static_cast<double>(stride_ / 2);
      timesteps_.insert(timesteps_.end(), {visited[step], half_way, half_way, visited[step + 1]});
    }
    timesteps_.insert(timesteps_.end(), visited.begin() + kPrkSteps, visited.end());
  }

  at::Tensor add_noise(const at::Tensor& image, const at::Tensor& noise, int64_t i) const override {
    const float alpha = alphas_.at(static_cast<size_t>(timesteps_.at(i)));
    return noisy(image, noise, std::sqrt(alpha), std::sqrt(1 - alpha));
  }

 protected:
  at::Tensor advance(const at::Tensor& output, int64_t i, const at::Tensor& sample, Noise& /*noise*/) override {
    // The method counts its own calls. One that begins later in the schedule begins as another does, though its
    // second timestep is not the first again: as in diffusers.
    const int64_t call = i - begin_;
    const auto timestep = static_cast<int64_t>(timesteps_[i]);
    return call < prk_calls_ ? runge_kutta(output, call, timestep, sample) : multistep(output, call, timestep, sample);
  }

 private:
  at::Tensor runge_kutta(const at::Tensor& output, int64_t call, int64_t timestep, const at::Tensor& sample) {
    const auto from = static_cast<int64_t>(timesteps_[call / 4 * 4]);
    const int64_t to = timestep - (call % 2 ? 0 : stride_ / 2);
    if (call % 4 == 0) {
      outputs_.push_front(output);
      start_ = sample;
      sum_ = output / 6;
      return move(start_, output, from, to);
    }
    if (call % 4 == 3) return move(start_, sum_ + output / 6, from, to);
    sum_ = sum_ + output / 3;
    return move(start_, output, from, to);
  }

  at::Tensor multistep(const at::Tensor& output, int64_t call, int64_t timestep, const at::Tensor& sample) {
    if (call == 1) {
      // The second call of the first step: its start and its end, averaged (Heun's method).
      return move(start_, (output + outputs_[0]) / 2, timestep + stride_, timestep);
    }
    if (call == 0) start_ = sample;
    outputs_.push_front(output);
    if (outputs_.size() > 4) outputs_.pop_back();
    const auto& o = outputs_;
    at::Tensor slope = output;  // Adams-Bashforth of the order that the history allows
    if (o.size() == 2) slope = (o[0] * 3 - o[1]) / 2;
    if (o.size() == 3) slope = (o[0] * 23 - o[1] * 16 + o[2] * 5) / 12;
    if (o.size() == 4) slope = (o[0] * 55 - o[1] * 59 + o[2] * 37 - o[3] * 9) / 24;
    return move(sample, slope, timestep, timestep - stride_);
  }

  // Formula (9) of the paper.
  at::Tensor move(const at::Tensor& sample, const at::Tensor& output, int64_t from, int64_t to) const {
    const float alpha_from = alphas_.at(from), alpha_to = to >= 0 ? alphas_.at(to) : final_alpha_;
    const float beta_from = 1 - alpha_from, beta_to = 1 - alpha_to;
    const at::Tensor noise = predicted_noise(type_, output, sample, std::sqrt(alpha_from), std::sqrt(beta_from));
    const float denominator = alpha_from * std::sqrt(beta_to) + std::sqrt(alpha_from * beta_from * alpha_to);
    return sample * std::sqrt(alpha_to / alpha_from) - noise * (alpha_to - alpha_from) / denominator;
  }

  const Prediction type_;
  const std::vector<float> alphas_;
  const int64_t prk_calls_;
  int64_t stride_ = 1;
  float final_alpha_ = 1;
  std::deque<at::Tensor> outputs_;  // at the steps' starts, the latest first
  at::Tensor start_, sum_;          // of the step that takes several calls
};

}  // namespace

std::unique_ptr<Scheduler> make_pndm(const SchedulerSpec& spec, int64_t steps) {
  return std::make_unique<Pndm>(spec, steps);
}

}  // namespace swap
