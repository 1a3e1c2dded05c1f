#include "runtime/steps.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <utility>

namespace swap {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Kept : torch::CustomClassHolder {
  Steps steps;
  std::vector<int64_t> shape;  // of the block's y
  at::TensorOptions options;

  explicit Kept(bool live) : steps(live) {}
};

struct Node : torch::autograd::Function<Node> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const std::optional<at::Tensor>&,
                               const std::optional<at::Tensor>&, const Block* block) {
    context->set_materialize_grads(false);
    const auto kept = c10::make_intrusive<Kept>(x.requires_grad());
    auto [y, losses] = (*block)(x.detach(), &kept->steps);
    kept->shape = y.sizes().vec(), kept->options = y.options();
    context->saved_data["kept"] = c10::IValue::make_capsule(kept);
    variable_list results{y};
    // LibTorch takes no undefined outputs.
    for (const auto& loss : losses) results.push_back(loss.defined() ? loss : at::empty({0}));
    return results;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto capsule = context->saved_data["kept"].toCapsule();
    auto& kept = static_cast<Kept&>(*capsule);
    Carried carried;
    carried.x = gradients[0].defined() ? gradients[0] : at::zeros(kept.shape, kept.options);
    carried.losses.assign(gradients.begin() + 1, gradients.end());
    kept.steps.back(carried);
    return {carried.x, carried.k_states, carried.v_states, at::Tensor()};
  }
};

std::optional<at::Tensor> optional(const at::Tensor& x) { return x.defined() ? std::optional(x) : std::nullopt; }

bool wants_gradient(const at::Tensor& x) { return x.defined() && x.requires_grad(); }

}  // namespace

void Steps::then(Step step) {
  steps_.push_back([step = std::move(step)](Carried& carried) { carried.x = step(carried.x); });
}

void Steps::fork() {
  forks_.push_back(live);
  if (!live) return;
  steps_.push_back([](Carried& carried) {
    carried.x = carried.x + carried.shortcuts.back();
    carried.shortcuts.pop_back();
  });
}

void Steps::join(Step shortcut) {
  const bool was_live = forks_.back();
  forks_.pop_back();
  if (!was_live) return;
  steps_.push_back([shortcut = std::move(shortcut)](Carried& carried) {
    carried.shortcuts.push_back(shortcut ? shortcut(carried.x) : carried.x);
  });
}

at::Tensor Steps::again(const at::Tensor& x, std::function<at::Tensor(const at::Tensor&, Steps*)> f) {
  const auto y = f(x, nullptr);
  then([x, f = std::move(f)](const at::Tensor& dy) {
    Steps steps(true);
    f(x, &steps);
    Carried carried;
    carried.x = dy;
    steps.back(carried);
    return carried.x;
  });
  return y;
}

void Steps::back(Carried& carried) {
  TORCH_CHECK(!std::exchange(taken_, true), "a block's way back is taken a second time");
  while (!steps_.empty()) {
    const auto step = std::move(steps_.back());
    steps_.pop_back();
    step(carried);
  }
}

at::Tensor differentiate(const at::Tensor& x, Steps* steps, c10::function_ref<at::Tensor(const at::Tensor&)> f) {
  if (!noted(steps)) return f(x);
  const auto leaf = x.detach().requires_grad_(true);
  at::Tensor y;
  {
    const at::AutoGradMode differentiated(true);
    y = f(leaf);
  }
  steps->then([leaf, y](const at::Tensor& dy) { return torch::autograd::grad({y}, {leaf}, {dy})[0]; });
  return y.detach();
}

void check(const Cancel& cancel, Steps* steps) {
  cancel.check();
  if (noted(steps)) steps->then_all([cancel](Carried&) { cancel.check(); });
}

BlockResult as_node(const Block& block, const at::Tensor& x, const at::Tensor& k_states, const at::Tensor& v_states) {
  const bool wanted = wants_gradient(x) || wants_gradient(k_states) || wants_gradient(v_states);
  if (!wanted || !c10::GradMode::is_enabled()) return block(x, nullptr);
  auto results = Node::apply(x, optional(k_states), optional(v_states), &block);
  BlockResult result{results[0], {}};
  for (size_t i = 1; i < results.size(); ++i) {
    result.losses.push_back(results[i].dim() == 1 && results[i].size(0) == 0 ? at::Tensor() : results[i]);
  }
  return result;
}

}  // namespace swap
