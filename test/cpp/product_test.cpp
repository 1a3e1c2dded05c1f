// Products by our own kernel against float64: linear layers, convolutions, GEGLU, and their way back.
#include "models/product.h"

#include <torch/csrc/autograd/autograd.h>

#include <vector>

#include "checks.h"
#include "models/linear.h"

namespace {

constexpr auto kLast = at::MemoryFormat::ChannelsLast;

at::Tensor random(at::IntArrayRef shape) {
  const auto x = at::randn(shape).to(at::kBFloat16);
  return shape.size() == 4 ? x.contiguous(kLast) : x;
}

// By how much two tensors differ, as a part of the greatest value. NaN where one has it.
double difference(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b).abs().max() / b.abs().max()).item<double>();
}

// The results are rounded to bfloat16 once, the rest is float32: half a unit in the last place of the greatest value.
constexpr double kRounding = 1.0 / 256;

at::Tensor exact(const at::Tensor& x) { return x.to(at::kDouble); }

bool has_kernel() {
  const bool found = swap::product_takes(random({32, 32}), random({32, 32}));
  if (!found) MESSAGE("not run: this processor has no AMX");
  return found;
}

}  // namespace

TEST_CASE("linear layers by our own kernel") {
  if (!has_kernel()) return;
  struct Case {
    int64_t rows, in, out;
  };
  // One row, a tile, a tile and one, the rows of a text, an odd number of tiles; the larger factor on either side; more
  // than one block.
  for (const auto& [rows, in, out] : std::vector<Case>{{1, 32, 32},
                                                       {16, 64, 96},
                                                       {17, 96, 64},
                                                       {154, 768, 320},
                                                       {48, 640, 1920},
                                                       {2500, 320, 64},
                                                       {300, 4608, 352}}) {
    CAPTURE(rows);
    CAPTURE(in);
    const auto x = random({rows, in}), weight = random({out, in}), bias = random({out}), dy = random({rows, out});
    CHECK(difference(swap::product_linear(x, weight, bias), at::linear(exact(x), exact(weight), exact(bias))) <
          kRounding);
    CHECK(difference(swap::product_linear(x, weight, {}), at::linear(exact(x), exact(weight))) < kRounding);
    CHECK(difference(swap::product_linear_gradient(dy, weight), at::matmul(exact(dy), exact(weight))) < kRounding);
    const auto halves = at::linear(exact(x), exact(weight), exact(bias)).chunk(2, -1);
    CHECK(difference(swap::product_linear(x, weight, bias, true), halves[0] * at::gelu(halves[1])) < kRounding);
  }
  // More dimensions, and rows that are not dense.
  const auto x = random({2, 7, 128}).slice(2, 0, 64), weight = random({96, 64});
  const auto y = swap::product_linear(x, weight, {});
  CHECK(y.sizes() == at::IntArrayRef({2, 7, 96}));
  CHECK(difference(y, at::linear(exact(x), exact(weight))) < kRounding);
}

TEST_CASE("a linear layer has LibTorch's gradient, with a bias and without") {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const bool biased : {true, false}) {
      const auto weight = at::randn({64, 96}).to(dtype), bias = biased ? at::randn({64}).to(dtype) : at::Tensor();
      const auto x = at::randn({2, 20, 96}).to(dtype).requires_grad_(), dy = at::randn({2, 20, 64}).to(dtype);
      const auto dx = torch::autograd::grad({swap::linear(x, weight, bias)}, {x}, {dy})[0];
      CHECK((dx.scalar_type() == dtype));
      CHECK(difference(dx, at::matmul(exact(dy), exact(weight))) < (dtype == at::kFloat ? 1e-6 : kRounding));
    }
  }
}

TEST_CASE("convolutions by our own kernel") {
  if (!has_kernel()) return;
  struct Case {
    int64_t batch, in, out, height, width, kernel;
  };
  for (const auto& c : std::vector<Case>{
           {1, 32, 32, 1, 1, 3},       // nearly all is border
           {2, 64, 96, 5, 7, 3},       // lines that go on into each other
           {3, 32, 64, 16, 16, 3},     // a tile a line
           {1, 96, 32, 9, 48, 3},      // an odd number of tiles a line
           {1, 32, 32, 3, 176, 3},     // lines in pieces, the last one shorter
           {2, 512, 64, 40, 64, 3},    // several blocks of a picture
           {2, 256, 512, 12, 24, 3},   // many columns
           {2, 640, 1280, 16, 16, 3},  // very many
           {2, 96, 64, 5, 7, 1},
           {1, 320, 640, 33, 32, 1},
       }) {
    CAPTURE(c.in);
    CAPTURE(c.width);
    const auto x = random({c.batch, c.in, c.height, c.width}), weight = random({c.out, c.in, c.kernel, c.kernel});
    const auto bias = random({c.out}), dy = random({c.batch, c.out, c.height, c.width});
    const int64_t border = c.kernel / 2;
    const auto leaf = exact(x).requires_grad_();
    const auto y = at::conv2d(leaf, exact(weight), exact(bias), 1, border);
    const auto dx = torch::autograd::grad({y}, {leaf}, {exact(dy)})[0];
    const auto found = swap::product_convolution(x, weight, bias);
    CHECK(found.is_contiguous(kLast));
    CHECK(difference(found, y.detach()) < kRounding);
    CHECK(difference(swap::product_convolution_gradient(dy, weight), dx) < kRounding);
  }
}

TEST_CASE("products leave alone what lies beside their results, and take no number from it") {
  if (!has_kernel()) return;
  // The memory that comes next is that of tensors full of NaN.
  for (int i = 0; i < 3; ++i) at::full({1 << 22}, NAN, at::kBFloat16);
  const auto x = random({1, 32, 6, 10}), weight = random({32, 32, 3, 3});
  const auto around = at::full({3, 6 * 10 * 32}, 7, at::kBFloat16);
  CHECK(at::isfinite(swap::product_convolution(x, weight, {})).all().item<bool>());
  CHECK((around == 7).all().item<bool>());
}

TEST_CASE("products of other types and sizes are not taken") {
  CHECK_FALSE(swap::product_takes(at::randn({40, 32}), at::randn({32, 32})));
  CHECK_FALSE(swap::product_takes(random({40, 48}), random({32, 48})));
  CHECK_FALSE(swap::product_takes(random({40, 32}), random({40, 32})));
  CHECK_FALSE(swap::product_takes(random({0, 32}), random({32, 32})));
  CHECK_FALSE(swap::product_takes(random({31, 32}), random({32, 32})));
  CHECK_FALSE(swap::product_takes(random({40, 32}), random({32, 32}).t()));
  CHECK_FALSE(swap::product_takes(random({1, 32, 5, 6}), random({32, 32, 3, 3})));
}
