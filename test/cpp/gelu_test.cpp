// GEGLU's way back and quick GELU on every instruction set of this machine, against LibTorch in float64.
#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include "cpu/kernels.h"

TEST_CASE("the gradient of a gelu(z) is LibTorch's, on every instruction set, far out too") {
  at::manual_seed(7);
  const int64_t rows = 5, width = 48;
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const bool half = dtype == at::kBFloat16;
    auto halves = (at::randn({rows, 2 * width}) * 2).to(dtype);
    const std::vector<double> far{-100, -12, -6, -1e-3, 0, 1e-3, 6, 100};
    for (size_t i = 0; i < far.size(); ++i) halves[0][width + static_cast<int64_t>(i)].fill_(far[i]);
    const auto dy = at::randn({rows, width}).to(dtype);

    auto wide = halves.to(at::kDouble).requires_grad_(true);
    const auto parts = wide.chunk(2, -1);
    (parts[0] * at::gelu(parts[1])).backward(dy.to(at::kDouble));
    const auto& expected = wide.grad();

    REQUIRE(!swap::cpu::gelu_kernels(half).empty());
    for (const auto* kernel : swap::cpu::gelu_kernels(half)) {
      const auto out = at::full({rows, 2 * width}, 99, dtype);
      const swap::cpu::GegluProblem p{width, halves.const_data_ptr(), dy.const_data_ptr(), out.mutable_data_ptr()};
      for (int64_t row = 0; row < rows; ++row) kernel->geglu_gradient(p, row);
      const auto error = (out.to(at::kDouble) - expected).abs();
      // Half a unit in the last place of what is stored, and what the polynomial errs.
      const double unit = half ? 1.0 / 256 : 1e-6;
      CHECK((error - expected.abs() * unit).max().item<double>() < 2e-6);
    }
  }
}

TEST_CASE("quick GELU there and back is LibTorch's, on every instruction set, far out too") {
  at::manual_seed(8);
  const int64_t n = 96;
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const bool half = dtype == at::kBFloat16;
    const auto x =
        at::cat({at::randn({n - 6}) * 3, at::tensor({-1e4, -60.0, -0.0, 1e-3, 60.0, 1e4}, at::kFloat)}).to(dtype);
    const auto dy = at::randn({n}).to(dtype);
    auto wide = x.to(at::kDouble).requires_grad_(true);
    const auto expected = wide * at::sigmoid(wide * 1.702);
    expected.backward(dy.to(at::kDouble));
    for (const auto* kernel : swap::cpu::gelu_kernels(half)) {
      const auto y = at::full({n}, 99, dtype), dx = at::full({n}, 99, dtype);
      kernel->quick({x.const_data_ptr(), nullptr, y.mutable_data_ptr()}, 0, n);
      kernel->quick_gradient({x.const_data_ptr(), dy.const_data_ptr(), dx.mutable_data_ptr()}, 0, n);
      const double unit = half ? 1.0 / 256 : 1e-6;
      const auto close = [&](const at::Tensor& got, const at::Tensor& wanted) {
        const auto error = (got.to(at::kDouble) - wanted).abs() - wanted.abs() * unit;
        CHECK(error.max().item<double>() < 1e-6);
      };
      close(y, expected.detach());
      close(dx, wide.grad());
    }
  }
}
