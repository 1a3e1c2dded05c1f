#include "models/gated_linear.h"

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>

#include "models/gelu.h"
#include "models/linear.h"
#include "runtime/device.h"

namespace swap {
namespace {

using Activated = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                             c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
using Multiplied = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                              std::string_view);

// oneDNN's linear layers that do one operation more on each value before they write it. LibTorch has them for its
// compiler, without gradients; not every build does.
struct Fused {
  std::optional<c10::OperatorHandle> activated, multiplied;
  bool bfloat16 = cpu_features().find("avx512") != std::string::npos;

  static const Fused& get() {
    static const Fused fused = [] {
      auto& dispatcher = c10::Dispatcher::singleton();
      Fused found;
      found.activated = dispatcher.findSchema({"mkldnn::_linear_pointwise", ""});
      found.multiplied = dispatcher.findSchema({"mkldnn::_linear_pointwise", "binary"});
      return found;
    }();
    return fused;
  }

  bool take(const at::Tensor& x) const {
    if (!activated || !multiplied || !x.device().is_cpu()) return false;
    return x.scalar_type() == at::kFloat || (x.scalar_type() == at::kBFloat16 && bfloat16);
  }
};

at::Tensor plain(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto halves = at::linear(x, weight, bias).chunk(2, -1);
  return halves[0] * at::gelu(halves[1]);
}

at::Tensor compute(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, PackedWeights* packed) {
  if (product_takes(x, weight)) return product_linear(x, weight, bias, true, packed);
  const auto& fused = Fused::get();
  if (!fused.take(x)) return plain(x, weight, bias);
  const auto weights = weight.chunk(2), biases = bias.chunk(2);
  const auto gate = fused.activated->typed<Activated>().call(x, weights[1], biases[1], "gelu",
                                                             c10::List<std::optional<at::Scalar>>(), "none");
  return fused.multiplied->typed<Multiplied>().call(x, gate, weights[0], biases[0], "mul");
}

// From the input alone, the product is taken again: the layer's output is eight times as wide, and with its GELU twelve
// times.
at::Tensor input_gradient(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, PackedWeights* packed,
                          const at::Tensor& dy) {
  const auto gradient = geglu_gradient(linear(x, weight, bias, packed), dy);
  return linear_gradient(gradient, weight, packed);
}

}  // namespace

at::Tensor gated_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, PackedWeights* packed,
                        Steps* steps) {
  check_no_graph(x);
  if (noted(steps)) {
    steps->then([=](const at::Tensor& dy) { return input_gradient(x, weight, bias, packed, dy); });
  }
  return compute(x, weight, bias, packed);
}

}  // namespace swap
