// Products by our own kernel against float64: linear layers, convolutions, GEGLU, and their way back.
#include "models/product.h"

#include <torch/csrc/autograd/autograd.h>

#include <utility>
#include <vector>

#include "amx_emulated.h"
#include "checks.h"
#include "cpu/kernels.h"
#include "difference.h"
#include "models/convolution.h"
#include "models/gated_linear.h"
#include "models/layers.h"
#include "models/linear.h"
#include "node.h"

namespace {

constexpr auto kLast = at::MemoryFormat::ChannelsLast;

at::Tensor random(at::IntArrayRef shape) {
  const auto x = at::randn(shape).to(at::kBFloat16);
  return shape.size() == 4 ? x.contiguous(kLast) : x;
}

// The results are rounded to bfloat16 once, the rest is float32: half a unit in the last place of the greatest value.
constexpr double kRounding = 1.0 / 256;

at::Tensor exact(const at::Tensor& x) { return x.to(at::kDouble); }

bool has_kernel() {
  const bool found = swap::product_takes(random({32, 32}), random({32, 32}));
  if (!found) MESSAGE("not run: this processor has neither AMX nor AVX512-BF16");
  return found;
}

// Those of this processor, and AMX's with tiles in memory.
std::vector<const swap::cpu::ProductKernel*> all_kernels() {
  auto kernels = swap::cpu::product_kernels();
#ifdef SWAP_X86
  kernels.push_back(&swap::cpu::kProductAmxEmulated);
#endif
  return kernels;
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
  // Weights that are a part of wider rows; a gradient that is one number everywhere.
  const auto part = random({96, 128}).narrow(1, 32, 64);
  CHECK(difference(swap::product_linear(x, part, {}), at::linear(exact(x), exact(part))) < kRounding);
  const auto one = at::ones({1}, at::kBFloat16).expand({40, 96});
  CHECK(difference(swap::product_linear_gradient(one, weight), at::matmul(exact(one), exact(weight))) < kRounding);
}

TEST_CASE("a linear layer has LibTorch's gradient, with a bias and without") {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const bool biased : {true, false}) {
      const auto weight = at::randn({64, 96}).to(dtype), bias = biased ? at::randn({64}).to(dtype) : at::Tensor();
      const auto x = at::randn({2, 20, 96}).to(dtype).requires_grad_(), dy = at::randn({2, 20, 64}).to(dtype);
      swap::Linear layer;
      layer.weight = weight, layer.bias = bias;
      const auto dx = torch::autograd::grad({as_block(x, layer)}, {x}, {dy})[0];
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
           {5, 64, 96, 4, 4, 3},       // several samples a block, tiles of two lines, an odd number of runs
           {3, 32, 32, 3, 4, 3},       // the same with half a tile over
           {5, 256, 256, 4, 4, 3},     // by several threads, blocks of two samples and one of one
           {1, 96, 32, 9, 48, 3},      // an odd number of tiles a line
           {1, 32, 32, 3, 176, 3},     // lines in pieces, the last one shorter
           {1, 64, 32, 4, 125, 3},     // the same of a width that has no whole tiles
           {2, 512, 64, 40, 64, 3},    // several blocks of a picture
           {2, 256, 512, 12, 24, 3},   // many columns
           {2, 640, 1280, 16, 16, 3},  // very many
           {2, 96, 64, 5, 7, 1},
           {1, 320, 640, 33, 32, 1},
           {2, 4, 64, 9, 12, 3},  // from a few channels
           {2, 64, 3, 9, 12, 3},  // to a few
           {3, 9, 4, 5, 7, 1},    // both
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

TEST_CASE("layers that keep their weights packed have the same results, forth and back, again and again") {
  if (!has_kernel()) return;
  const auto x = random({40, 96}), weight = random({128, 96}), bias = random({128});
  const auto picture = random({1, 96, 9, 7}), kernels = random({128, 96, 3, 3});
  // A layer's result and gradient, without kept weights and with them.
  const auto check = [](auto layer, const at::Tensor& x, const at::Tensor& dy) {
    const auto differentiate = [&](const swap::PackedWeights::Ptr& packed) {
      const auto leaf = x.detach().clone().requires_grad_();
      const auto y = as_block(leaf, layer(packed));
      return std::pair(y.detach(), torch::autograd::grad({y}, {leaf}, {dy})[0]);
    };
    const auto expected = differentiate({});
    const auto packed = c10::make_intrusive<swap::PackedWeights>(c10::make_intrusive<swap::Arena>());
    for (int round = 0; round < 2; ++round) {
      const auto found = differentiate(packed);
      CHECK(at::equal(found.first, expected.first));
      CHECK(at::equal(found.second, expected.second));
    }
  };
  swap::Linear linear;
  linear.weight = weight, linear.bias = bias;
  swap::Conv2d convolution;
  convolution.weight = kernels, convolution.bias = bias, convolution.padding = 1;
  const auto with = [](auto& layer) {
    return [&](const swap::PackedWeights::Ptr& packed) {
      layer.packed = packed;
      return [&](const at::Tensor& input, swap::Steps* steps) { return layer(input, steps); };
    };
  };
  check(with(linear), x, random({40, 128}));
  check(with(convolution), picture, random({1, 128, 9, 7}));
  convolution.weight = random({4, 96, 3, 3}), convolution.bias = random({4});  // to a few channels
  check(with(convolution), picture, random({1, 4, 9, 7}));
  const auto gated = [&](const swap::PackedWeights::Ptr& packed) {
    return [&, packed](const at::Tensor& input, swap::Steps* steps) {
      return swap::gated_linear(input, weight, bias, packed.get(), steps);
    };
  };
  check(gated, x, random({40, 64}));
}

TEST_CASE("every kernel's products leave alone what lies beside their results, and take no number from beside") {
  if (!has_kernel()) return;
  struct Case {
    int64_t samples, height, width, depth, outputs, kernel, block_lines, block_width;
    bool transposed = false, gated = false;
    int64_t block_samples = 1;
  };
  for (const auto* kernel : all_kernels()) {
    for (const auto& c : std::vector<Case>{
             {1, 7, 70, 64, 96, 3, 3, 35},        // lines that go on into each other, the last blocks shorter
             {1, 7, 70, 64, 96, 3, 3, 35, true},  // and its way back
             {2, 4, 4, 32, 64, 3, 4, 4},          // tiles that reach beyond the picture
             {2, 16, 16, 352, 32, 3, 16, 16},     // more than one stretch of channels
             {1, 8, 8, 320, 64, 3, 8, 8, true},
             {5, 4, 4, 64, 32, 3, 4, 4, false, false, 2},  // two samples a block, in the last one alone
             {3, 5, 7, 32, 64, 3, 5, 7, true, false, 3},
             {1, 1, 1, 32, 32, 3, 1, 1},
             {1, 13, 1, 96, 64, 1, 1, 32},  // a matrix of few rows
             {1, 1, 1, 640, 32, 1, 1, 32, true},
             {1, 300, 1, 64, 96, 1, 3, 32},  // of many
             {1, 77, 1, 320, 128, 1, 2, 32, false, true},
         }) {
      CAPTURE(kernel->name);
      CAPTURE(c.height);
      CAPTURE(c.depth);
      CAPTURE(c.transposed);
      CAPTURE(c.kernel);
      const bool picture = c.kernel == 3;
      const auto x = random({c.samples, c.depth, c.height, c.width});
      const auto weight = c.transposed ? random({c.depth, c.outputs, c.kernel, c.kernel})
                                       : random({c.outputs, c.depth, c.kernel, c.kernel});
      swap::cpu::Product p;
      p.samples = c.samples, p.pixels = c.height * c.width, p.depth = c.depth, p.outputs = c.outputs;
      p.taps = c.kernel * c.kernel, p.transposed = c.transposed, p.gated = c.gated;
      p.height = picture ? c.height : (p.pixels + 31) / 32, p.width = picture ? c.width : 32;
      p.block_lines = c.block_lines, p.block_width = c.block_width, p.block_samples = c.block_samples;
      p.weight_row = p.taps * weight.size(1), p.weight_tap = weight.size(1);
      p.x = x.const_data_ptr(), p.weight = weight.const_data_ptr();

      // Of exactly the sizes that are asked for, full of NaN, between numbers that must stay.
      const auto buffer = [](int64_t size) { return at::full({size}, NAN, at::kBFloat16); };
      const int64_t groups = c.outputs / swap::cpu::kGroup, width = c.gated ? c.outputs / 2 : c.outputs;
      const auto blocks = buffer(swap::cpu::block_size(p)), weights = buffer(groups * swap::cpu::group_size(p));
      const auto y = at::full({c.samples * p.pixels + 2, width}, 7, at::kBFloat16);
      p.y = y.mutable_data_ptr<at::BFloat16>() + width;
      kernel->pack_weights(p, 0, groups, weights.mutable_data_ptr());
      const auto multiply = [&] {
        for (int64_t block = 0; block < swap::cpu::block_count(p); ++block) {
          blocks.fill_(NAN);
          kernel->pack_block(p, block, blocks.mutable_data_ptr());
          kernel->multiply(p, block, blocks.const_data_ptr(), 0, groups, weights.const_data_ptr());
        }
        CHECK((y[0] == 7).all().item<bool>());
        CHECK((y[c.samples * p.pixels + 1] == 7).all().item<bool>());
        return y.slice(0, 1, c.samples * p.pixels + 1)
            .view({c.samples, c.height, c.width, width})
            .permute({0, 3, 1, 2});
      };
      auto expected = c.transposed ? at::conv_transpose2d(exact(x), exact(weight), {}, 1, c.kernel / 2)
                                   : at::conv2d(exact(x), exact(weight), {}, 1, c.kernel / 2);
      if (c.gated) {
        const auto halves = expected.chunk(2, 1);
        expected = halves[0] * at::gelu(halves[1]);
      }
      CHECK(difference(multiply(), expected) < kRounding);
      if (c.gated) continue;
      const auto each = random({c.samples, width, c.height, c.width}), all = random({c.samples, width, 1, 1});
      p.added = each.const_data_ptr(), p.added_sample = p.pixels * width, p.added_pixel = width;
      CHECK(difference(multiply(), expected + exact(each)) < kRounding);
      p.added = all.const_data_ptr(), p.added_sample = width, p.added_pixel = 0;
      CHECK(difference(multiply(), expected + exact(all)) < kRounding);
    }
  }
}

TEST_CASE("layers add what they are given, by our own kernel or not, and round the sum once where it is ours") {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const auto some = [&](at::IntArrayRef shape) { return random(shape).to(dtype); };
    swap::Linear linear;
    linear.weight = some({64, 96}), linear.bias = some({64});
    const auto rows = some({2, 21, 96}), more = some({2, 21, 64});
    const double once = kRounding, twice = 2 * kRounding;
    const double rounding = dtype == at::kFloat ? 1e-5 : swap::product_takes(rows, linear.weight) ? once : twice;
    const auto plain = at::linear(exact(rows), exact(linear.weight), exact(linear.bias));
    CHECK(difference(linear(rows, nullptr, more), plain + exact(more)) < rounding);
    // Not dense: every second row of a larger one. And one row for all, which the kernel does not add.
    const auto spread = some({2, 42, 64}).slice(1, 0, 42, 2), row = some({64});
    CHECK(difference(linear(rows, nullptr, spread), plain + exact(spread)) < rounding);
    CHECK(difference(linear(rows, nullptr, row), plain + exact(row)) < twice);
    struct Case {
      int64_t out, size, height, width;
    };
    for (const auto& [out, size, h, w] :
         std::vector<Case>{{64, 3, 5, 6}, {64, 1, 5, 6}, {3, 3, 5, 6}, {64, 3, 1, 1}, {64, 1, 1, 1}}) {
      CAPTURE(size);
      CAPTURE(h);
      swap::Conv2d convolution;
      convolution.weight = some({out, 32, size, size}).contiguous(kLast), convolution.bias = some({out});
      convolution.padding = size / 2;
      const auto x = some({2, 32, h, w}).contiguous(kLast);
      const auto y = at::conv2d(exact(x), exact(convolution.weight), exact(convolution.bias), 1, size / 2);
      // Each pixel's, each sample's, all samples'; and what the kernel does not add.
      const std::vector<std::vector<int64_t>> shapes{{2, out, h, w}, {2, out, 1, 1}, {1, out, 1, 1}, {1, out, h, w}};
      for (const auto& shape : shapes) {
        const auto added = some(shape);
        const bool full = added.sizes() == y.sizes(), one = shape[2] * shape[3] == 1;
        const bool by_kernel = out == 64 && (full || (size == 3 && one));
        CHECK(difference(convolution(x, nullptr, added), y + exact(added)) < (by_kernel ? rounding : twice));
      }
    }
  }
}

TEST_CASE("what the kernel cannot add is added to its results") {
  if (!has_kernel()) return;
  const auto x = random({2, 32, 5, 6}), weight = random({3, 32, 3, 3}), bias = random({3});
  const auto y = at::conv2d(exact(x), exact(weight), exact(bias), 1, 1);
  for (const auto& added : {random({2, 3, 5, 6}), random({1, 3, 1, 1}), random({6}), at::randn({2, 3, 5, 6})}) {
    CHECK(difference(swap::product_convolution(x, weight, bias, {}, added), y + exact(added)) < 2 * kRounding);
  }
  const auto rows = random({7, 32}), wide = random({64, 32}), singles = at::randn({7, 64});
  CHECK(difference(swap::product_linear(rows, wide, {}, false, {}, singles),
                   at::linear(exact(rows), exact(wide)) + singles) < 2 * kRounding);
}

TEST_CASE("products of factors that do not fit are refused") {
  if (!has_kernel()) return;
  CHECK_THROWS(swap::product_linear(random({64, 64}), random({32, 32}), {}));
  CHECK_THROWS(swap::product_linear(random({64, 32}), random({64, 32}), random({32})));
  CHECK_THROWS(swap::product_convolution(random({1, 64, 8, 8}), random({32, 32, 3, 3}), {}));
  CHECK_THROWS(swap::product_linear(random({64, 32}), random({64, 32}), {}, false, {}, random({64, 32})));
  const auto x = random({2, 32, 8, 8}), weight = random({32, 32, 3, 3});
  CHECK_THROWS(swap::product_convolution(x, weight, {}, {}, random({2, 32, 7, 8})));
  // The kernel has 32 channels where the layer has 3.
  const auto few = random({3, 32, 3, 3});
  CHECK_THROWS(swap::product_convolution(x, few, {}, {}, random({2, 32, 8, 8})));
  CHECK_THROWS(swap::product_convolution(x, few, {}, {}, random({2, 32, 1, 1})));
  CHECK_THROWS(swap::product_convolution(x, weight, {}, {}, random({3, 32, 1, 1})));
  CHECK_THROWS(swap::product_linear(random({64, 32}), random({64, 32}), {}, true, {}, random({64, 32})));
}

TEST_CASE("products of other types and sizes are not taken") {
  CHECK_FALSE(swap::product_takes(at::randn({40, 32}), at::randn({32, 32})));
  CHECK_FALSE(swap::product_takes(random({40, 48}), random({32, 48})));
  CHECK_FALSE(swap::product_takes(random({40, 32}), random({40, 32})));
  CHECK_FALSE(swap::product_takes(random({0, 32}), random({32, 32})));
  CHECK_FALSE(swap::product_takes(random({40, 32}), random({32, 32}).t()));
  CHECK_FALSE(swap::product_takes(random({40, 32}), random({32, 33}).narrow(1, 0, 32)));
  CHECK_FALSE(swap::product_takes(random({40, 32}), random({32, 32}).to(at::kMeta)));
  CHECK_FALSE(swap::product_takes(random({1, 4, 16, 16}), random({64, 4, 3, 3})));
  CHECK_FALSE(swap::product_takes_picture(random({1, 4, 64, 64}), random({320, 4, 3, 3})));
  CHECK_FALSE(swap::product_takes_picture(at::randn({1, 4, 16, 16}), at::randn({64, 4, 3, 3})));
  CHECK(swap::product_takes_picture(random({1, 4, 16, 16}), random({64, 4, 3, 3})) == has_kernel());
  CHECK(swap::product_takes_picture(random({4, 64, 16, 16}), random({4, 64, 3, 3})) == has_kernel());
}
