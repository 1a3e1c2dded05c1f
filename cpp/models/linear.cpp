#include "models/linear.h"

#include "runtime/steps.h"

namespace swap {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  const PackedWeights::Ptr& packed, const at::Tensor& added) {
  check_no_graph(x);
  const bool ours = product_takes(x, weight), together = ours && added.defined() && product_adds(added, weight);
  const auto y = ours ? product_linear(x, weight, bias, false, packed, together ? added : at::Tensor())
                      : at::linear(x, weight, bias);
  return added.defined() && !together ? y.add_(added) : y;
}

at::Tensor linear_gradient(const at::Tensor& dy, const at::Tensor& weight, const PackedWeights::Ptr& packed) {
  return product_takes(dy, weight) ? product_linear_gradient(dy, weight, packed) : at::matmul(dy, weight);
}

}  // namespace swap
