#include "sample/scheduler.h"

#include <string>
#include <utility>

#include "runtime/error.h"

namespace swap {

void Scheduler::begin_at(int64_t call) {
  const auto calls = static_cast<int64_t>(timesteps_.size());
  if (call < 0 || call >= calls) {
    throw Error(
        "SWAP_SCHEDULER_STEPS",
        "none of the " + std::to_string(calls) + " calls is left when " + std::to_string(call) + " are left out",
        "choose more steps, or a higher strength");
  }
  begin_ = next_ = call;
}

at::Tensor Scheduler::step(const at::Tensor& model_output, int64_t i, const at::Tensor& sample, Noise& noise) {
  const auto calls = static_cast<int64_t>(timesteps_.size());
  if (i != next_ || i >= calls) {
    throw Error("SWAP_SCHEDULER_CALL", "call " + std::to_string(i) + " of the scheduler came where call " +
                                           std::to_string(next_) + " of " + std::to_string(calls) + " was due");
  }
  if (model_output.sizes() != sample.sizes()) {
    throw Error("SWAP_TENSOR_SHAPE", "the model's output and the sample differ in shape");
  }
  ++next_;
  return advance(model_output.to(at::kFloat), i, sample.to(at::kFloat), noise);
}

std::unique_ptr<Scheduler> make_scheduler(const SchedulerSpec& spec, int64_t steps) {
  using Make = std::unique_ptr<Scheduler> (*)(const SchedulerSpec&, int64_t);
  static constexpr std::pair<const char*, Make> kinds[] = {
      {"ddim", make_ddim},          {"pndm", make_pndm},   {"euler", make_euler}, {"euler-a", make_euler_ancestral},
      {"dpm++2m", make_dpm_solver}, {"unipc", make_unipc}, {"lcm", make_lcm},
  };
  if (steps < 1 || steps > spec.noise.train_timesteps) {
    throw Error("SWAP_SCHEDULER_STEPS", std::to_string(steps) + " steps cannot be made",
                "choose 1 to " + std::to_string(spec.noise.train_timesteps) +
                    " steps: the model was trained with that many timesteps");
  }
  for (const auto& [kind, make] : kinds) {
    if (spec.kind == kind) return make(spec, steps);
  }
  throw Error("SWAP_SCHEDULER_UNKNOWN", "there is no scheduler '" + spec.kind + "'",
              "choose ddim, pndm, euler, euler-a, dpm++2m, unipc or lcm");
}

}  // namespace swap
