// Group normalisation with and without SiLU, each kernel of this machine by what the engine takes, against float64.
#include "models/norm.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "checks.h"
#include "cpu/kernels.h"
#include "cpu/norm_kernel.h"
#include "difference.h"
#include "node.h"

namespace {

struct Case {
  int64_t batch, channels, height, width, groups;
  double mean = 0;  // beside a spread of 1
};

struct Results {
  at::Tensor y, dx;
};

template <class Make>
Results differentiate(const at::Tensor& x, const at::Tensor& upstream, Make&& make) {
  const auto leaf = x.detach().requires_grad_();
  const auto y = make(leaf);
  return {y.detach(), torch::autograd::grad({y}, {leaf}, {upstream})[0]};
}

void compare(const Case& c, at::ScalarType dtype, bool silu) {
  CAPTURE(c.channels);
  CAPTURE(c.height);
  CAPTURE(c.mean);
  CAPTURE(silu);
  CAPTURE(dtype == at::kFloat);
  const auto generator = at::detail::createCPUGenerator(9);
  const auto channels_last = at::MemoryFormat::ChannelsLast;
  const auto random = [&](at::IntArrayRef shape) { return at::randn(shape, generator); };
  const auto x = (random({c.batch, c.channels, c.height, c.width}) + c.mean).to(dtype).contiguous(channels_last);
  const auto upstream = random(x.sizes()).to(dtype).contiguous(channels_last);
  const auto weight = (1 + 0.3 * random({c.channels})).to(dtype), bias = random({c.channels}).to(dtype);
  const auto make = [&](at::ScalarType type) {
    return [&, type](const at::Tensor& x) {
      const auto y = at::group_norm(x, c.groups, weight.to(type), bias.to(type), 1e-5);
      return silu ? at::silu(y) : y;
    };
  };
  const auto wide = at::kDouble;
  const auto exact = differentiate(x.to(wide), upstream.to(wide), make(wide));
  const auto plain = differentiate(x, upstream, make(dtype));
  const auto ours = [&](const at::Tensor& x) {
    return as_block(x, [&](const at::Tensor& input, swap::Steps* steps) {
      return swap::group_norm(input, c.groups, weight, bias, 1e-5, silu, steps);
    });
  };
  const auto found = differentiate(x, upstream, ours);
  CHECK((found.y.scalar_type() == dtype));
  const double least = dtype == at::kFloat ? 1e-6 : 4e-3;
  CHECK(difference(found.y, exact.y) <= std::max(2 * difference(plain.y, exact.y), least));
  CHECK(difference(found.dx, exact.dx) <= std::max(2 * difference(plain.dx, exact.dx), least));
  c10::NoGradGuard no_grad;
  CHECK(at::equal(ours(x), found.y));
}

const std::vector<Case> kCases = {
    {1, 32, 8, 8, 32}, {2, 64, 9, 7, 32}, {1, 320, 16, 16, 32},     {2, 960, 5, 3, 32}, {1, 128, 64, 64, 32},
    {1, 64, 1, 1, 8},  {2, 48, 6, 6, 4},  {1, 64, 32, 32, 32, 100}, {1, 24, 5, 5, 4},  // no multiple of sixteen:
                                                                                       // LibTorch's own
};

}  // namespace

TEST_CASE("group normalisation, alone and with SiLU, is LibTorch's, forth and back") {
  for (const auto& c : kCases) {
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      for (const bool silu : {false, true}) compare(c, dtype, silu);
    }
  }
}

TEST_CASE("every kernel of group normalisation gives what the first one gives") {
  for (const bool half : {false, true}) {
    const auto dtype = half ? at::kBFloat16 : at::kFloat;
    const int64_t pixels = 37, channels = 48;
    const auto x = at::randn({2, pixels, channels}).to(dtype), dy = at::randn({2, pixels, channels}).to(dtype);
    const auto lines = at::randn({6, 2, channels});
    const auto run = [&](const swap::cpu::NormKernel& kernel) {
      swap::cpu::NormProblem p;
      p.batch = 2, p.pixels = pixels, p.channels = channels, p.chunks = 2, p.chunk_pixels = 20, p.silu = true;
      p.x = x.const_data_ptr(), p.dy = dy.const_data_ptr();
      const auto sums = at::zeros({2, 4, 2, channels}), values = at::empty({2, 2, pixels, channels}, x.options());
      const float** const inputs[] = {&p.pivot, &p.scale, &p.shift, &p.gain, &p.slope, &p.offset};
      for (int i = 0; i < 6; ++i) *inputs[i] = lines[i].const_data_ptr<float>();
      for (int64_t item = 0; item < 4; ++item) {
        p.sums = sums[0].mutable_data_ptr<float>();
        kernel.sums(p, item);
        p.sums = sums[1].mutable_data_ptr<float>();
        kernel.gradient_sums(p, item);
        p.out = values[0].mutable_data_ptr();
        kernel.apply(p, item);
        p.out = values[1].mutable_data_ptr();
        kernel.gradient(p, item);
      }
      return std::vector<at::Tensor>{sums, values[0], values[1]};
    };
    const auto& kernels = swap::cpu::norm_kernels(half);
    const auto first = run(*kernels.back());
    for (const auto* kernel : kernels) {
      const auto found = run(*kernel);
      CHECK(difference(found[0], first[0]) < 1e-5);
      for (int i = 1; i < 3; ++i) CHECK(difference(found[i], first[i]) < (half ? 8e-3 : 1e-5));
    }
  }
}

TEST_CASE("group normalisation has the same bits for any number of threads, and NaN stays in its group") {
  const int threads = at::get_num_threads();
  const auto x = at::randn({1, 64, 64, 64}).contiguous(at::MemoryFormat::ChannelsLast);
  const auto weight = at::ones({64}), bias = at::zeros({64});
  at::set_num_threads(1);
  const auto first = swap::group_norm(x, 8, weight, bias, 1e-5, true);
  at::set_num_threads(3);
  CHECK(at::equal(swap::group_norm(x, 8, weight, bias, 1e-5, true), first));
  at::set_num_threads(threads);
  auto broken = x.clone();
  broken.select(1, 3).select(1, 5).select(1, 6).fill_(std::nan(""));
  const auto y = swap::group_norm(broken, 8, weight, bias, 1e-5, true);
  CHECK(at::isnan(y.narrow(1, 0, 8)).all().item<bool>());
  CHECK(at::isfinite(y.narrow(1, 8, 56)).all().item<bool>());
}

TEST_CASE("the normalisation of layers by every instruction set of this machine, against float64") {
  const int64_t rows = 5, width = 208;
  for (const auto to : {at::kFloat, at::kBFloat16}) {
    for (const auto* kernel : swap::cpu::norm_kernels(to == at::kBFloat16)) {
      for (const bool wide : {false, true}) {
        const auto from = wide ? at::kFloat : to;
        const auto x = (at::randn({rows, width}) * 2 + 5).to(from), weight = (1 + 0.3 * at::randn({width})).to(from);
        const auto bias = at::randn({width}).to(from), dy = at::randn({rows, width}).to(to);
        const auto exact = differentiate(x.to(at::kDouble), dy.to(at::kDouble), [&](const at::Tensor& input) {
          return at::layer_norm(input, {width}, weight.to(at::kDouble), bias.to(at::kDouble), 1e-5);
        });
        const auto y = at::empty({rows, width}, to), dx = at::empty({rows, width}, from);
        const auto kept = at::empty({rows, 2}, at::kFloat);
        swap::cpu::LayerNormProblem p;
        p.width = width, p.eps = 1e-5F, p.x = x.const_data_ptr(), p.weight = weight.const_data_ptr();
        p.bias = bias.const_data_ptr(), p.out = y.mutable_data_ptr(), p.kept = kept.mutable_data_ptr<float>();
        const auto& layer = wide ? kernel->wide_layer : kernel->layer;
        for (int64_t row = 0; row < rows; ++row) layer.apply(p, row);
        p.dy = dy.const_data_ptr(), p.out = dx.mutable_data_ptr();
        for (int64_t row = 0; row < rows; ++row) layer.gradient(p, row);
        const double unit = to == at::kFloat ? 2e-6 : 1.0 / 128;
        CHECK(difference(y, exact.y) < unit);
        CHECK(difference(dx, exact.dx) < unit);
      }
    }
  }
}

TEST_CASE("the normalisation of layers, forth and back, by every kernel's types, against float64") {
  const auto generator = at::detail::createCPUGenerator(12);
  const auto random = [&](at::IntArrayRef shape) { return at::randn(shape, generator); };
  for (const auto& [from, to] : {std::pair(at::kFloat, at::kFloat), std::pair(at::kFloat, at::kBFloat16),
                                 std::pair(at::kBFloat16, at::kBFloat16), std::pair(at::kHalf, at::kHalf)}) {
    for (const int64_t width : {64, 208, 20}) {  // the last one is LibTorch's
      CAPTURE(width);
      const auto x = (random({3, 37, width}) * 2 + 5).to(from), dy = random({3, 37, width}).to(to);
      const auto weight = (1 + 0.3 * random({width})).to(from), bias = random({width}).to(from);
      const auto exact = differentiate(x.to(at::kDouble), dy.to(at::kDouble), [&](const at::Tensor& input) {
        return at::layer_norm(input, {width}, weight.to(at::kDouble), bias.to(at::kDouble), 1e-5);
      });
      const auto found = differentiate(x, dy, [&](const at::Tensor& input) {
        return as_block(input, [&, to = to](const at::Tensor& block, swap::Steps* steps) {
          return swap::layer_norm(block, weight, bias, 1e-5, to, steps);
        });
      });
      CHECK((found.y.scalar_type() == to));
      CHECK((found.dx.scalar_type() == from));
      const auto unit = [](at::ScalarType type) { return type == at::kFloat ? 2e-6 : 1.0 / 128; };
      CHECK(difference(found.y, exact.y) < unit(to));
      CHECK(difference(found.dx, exact.dx) < unit(from == at::kFloat ? to : from));
    }
  }
}
