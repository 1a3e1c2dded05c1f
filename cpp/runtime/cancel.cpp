#include "runtime/cancel.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace swap {
namespace {

// The identity, with a look at the flag on the way back.
struct CancelPoint : torch::autograd::Function<CancelPoint> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, int64_t flag) {
    context->saved_data["flag"] = flag;
    return x.view_as(x);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto* flag = reinterpret_cast<const std::atomic<bool>*>(context->saved_data["flag"].toInt());
    Cancel(flag).check();
    return {gradients[0], at::Tensor()};
  }
};

}  // namespace

at::Tensor Cancel::at(const at::Tensor& x) const {
  check();
  if (!flag_ || !c10::GradMode::is_enabled() || !x.requires_grad()) return x;
  return CancelPoint::apply(x, reinterpret_cast<int64_t>(flag_));
}

std::vector<at::Tensor> gradients(const at::Tensor& loss, const std::vector<at::Tensor>& leaves) {
  using torch::autograd::grad;
  try {
    return grad({loss}, leaves, {}, /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/true);
  } catch (...) {
    // What an aborted pass had queued, and the activations that hang on it, LibTorch keeps until the thread's next
    // pass.
    auto x = at::zeros({});
    x.set_requires_grad(true);
    grad({x * 1}, {x});
    throw;
  }
}

}  // namespace swap
