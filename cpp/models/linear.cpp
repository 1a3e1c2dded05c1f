#include "models/linear.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

namespace swap {
namespace {

struct ProductLinear : torch::autograd::Function<ProductLinear> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, const PackedWeights::Ptr& packed) {
    context->save_for_backward({weight});
    save_packed(*context, packed);
    return product_linear(x, weight, bias.value_or(at::Tensor()), false, packed);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto weight = context->get_saved_variables()[0];
    return {product_linear_gradient(gradients[0], weight, saved_packed(*context)), at::Tensor(), at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  const PackedWeights::Ptr& packed) {
  if (!product_takes(x, weight)) return at::linear(x, weight, bias);
  if (c10::GradMode::is_enabled() && x.requires_grad()) {
    return ProductLinear::apply(x, weight, bias.defined() ? std::optional(bias) : std::nullopt, packed);
  }
  return product_linear(x, weight, bias, false, packed);
}

at::Tensor linear_gradient(const at::Tensor& dy, const at::Tensor& weight, const PackedWeights::Ptr& packed) {
  return product_takes(dy, weight) ? product_linear_gradient(dy, weight, packed) : at::matmul(dy, weight);
}

}  // namespace swap
