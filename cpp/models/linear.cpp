#include "models/linear.h"

#include "runtime/steps.h"

namespace swap {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  const PackedWeights::Ptr& packed) {
  check_no_graph(x);
  return product_takes(x, weight) ? product_linear(x, weight, bias, false, packed) : at::linear(x, weight, bias);
}

at::Tensor linear_gradient(const at::Tensor& dy, const at::Tensor& weight, const PackedWeights::Ptr& packed) {
  return product_takes(dy, weight) ? product_linear_gradient(dy, weight, packed) : at::matmul(dy, weight);
}

}  // namespace swap
