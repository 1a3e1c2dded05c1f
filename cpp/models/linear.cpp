#include "models/linear.h"

#include "runtime/steps.h"

namespace swap {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, PackedWeights* packed,
                  const at::Tensor& added) {
  check_no_graph(x);
  if (added.defined()) check_no_graph(added);
  return product_takes(x, weight) ? product_linear(x, weight, bias, false, packed, added)
                                  : plus(at::linear(x, weight, bias), added);
}

at::Tensor linear_gradient(const at::Tensor& dy, const at::Tensor& weight, PackedWeights* packed) {
  return product_takes(dy, weight) ? product_linear_gradient(dy, weight, packed) : at::matmul(dy, weight);
}

}  // namespace swap
