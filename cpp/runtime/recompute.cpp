#include "runtime/recompute.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <utility>

namespace swap {
namespace {

using Step = std::function<at::Tensor(const at::Tensor&)>;

struct Kept : torch::CustomClassHolder {
  explicit Kept(Step step) : step(std::move(step)) {}
  Step step;
};

struct Recomputed : torch::autograd::Function<Recomputed> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const Step& step) {
    context->save_for_backward({x});
    context->saved_data["step"] = c10::IValue::make_capsule(c10::make_intrusive<Kept>(step));
    return step(x);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto kept = context->saved_data["step"].toCapsule();
    const auto& step = static_cast<const Kept&>(*kept).step;
    const auto x = context->get_saved_variables()[0].detach().requires_grad_(true);
    at::Tensor y;
    {
      const at::AutoGradMode differentiated(true);
      y = step(x);
    }
    return {torch::autograd::grad({y}, {x}, {gradients[0]})[0], at::Tensor()};
  }
};

}  // namespace

at::Tensor recompute(Step f, const at::Tensor& x) {
  if (!c10::GradMode::is_enabled() || !x.requires_grad()) return f(x);
  return Recomputed::apply(x, f);
}

}  // namespace swap
