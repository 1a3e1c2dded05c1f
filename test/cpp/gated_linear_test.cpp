// GEGLU against its definition in float64, with the gradient of its input.
#include "models/gated_linear.h"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>

#include "checks.h"
#include "difference.h"
#include "node.h"

namespace {

at::Tensor definition(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto halves = at::linear(x, weight, bias).chunk(2, -1);
  return halves[0] * at::gelu(halves[1]);
}

struct Results {
  at::Tensor y, dx;
};

template <class Make>
Results differentiate(at::ScalarType dtype, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      const at::Tensor& upstream, Make&& make) {
  const auto leaf = x.to(dtype).detach().requires_grad_();
  const auto y = make(leaf, weight.to(dtype), bias.to(dtype));
  return {y.detach(), torch::autograd::grad({y}, {leaf}, {upstream.to(dtype)})[0]};
}

}  // namespace

TEST_CASE("GEGLU is at most twice as far from float64 as its plain version, forth and back") {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const int64_t width : {16, 40, 320}) {
      CAPTURE(width);
      CAPTURE(dtype == at::kFloat);
      const auto random = [&](at::IntArrayRef shape) { return at::randn(shape).to(dtype); };
      const auto x = random({2, 33, width}), weight = random({8 * width, width}) / 8, bias = random({8 * width});
      const auto upstream = random({2, 33, 4 * width});
      const auto exact = differentiate(at::kDouble, x, weight, bias, upstream, definition);
      const auto plain = differentiate(dtype, x, weight, bias, upstream, definition);
      const auto found =
          differentiate(dtype, x, weight, bias, upstream, [](const auto& x, const auto& weight, const auto& bias) {
            return as_block(x, [&](const at::Tensor& input, swap::Steps* steps) {
              return swap::gated_linear(input, weight, bias, {}, steps);
            });
          });
      CHECK((found.y.scalar_type() == dtype));
      const double least = dtype == at::kFloat ? 2e-6 : 8e-3;
      CHECK(difference(found.y, exact.y) <= std::max(2 * difference(plain.y, exact.y), least));
      CHECK(difference(found.dx, exact.dx) <= std::max(2 * difference(plain.dx, exact.dx), least));
      c10::NoGradGuard no_grad;
      CHECK(at::equal(swap::gated_linear(x, weight, bias), found.y));
    }
  }
}
