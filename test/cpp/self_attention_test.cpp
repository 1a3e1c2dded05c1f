// Self-attention: each kernel by its instruction set, against the definition in float64 and against the error of
// LibTorch's own in the same dtype.
#include "attention/self_attention.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "attention/split_attention.h"
#include "checks.h"
#include "cpu/kernels.h"
#include "node.h"

using namespace swap;

namespace {

constexpr at::ScalarType kTypes[] = {at::kFloat, at::kBFloat16};

struct Shape {
  int64_t batch, heads, queries, keys, width;
  double gain = 1;  // of Q
};

const std::vector<Shape> kShapes = {
    {1, 2, 64, 64, 40}, {2, 3, 128, 128, 80}, {1, 2, 256, 256, 160}, {1, 1, 1024, 1024, 40},   {1, 2, 1, 1, 40},
    {1, 2, 63, 63, 64}, {1, 2, 65, 65, 32},   {2, 2, 100, 77, 24},   {1, 2, 31, 200, 48},      {1, 1, 130, 129, 7},
    {1, 2, 70, 66, 1},  {1, 1, 80, 90, 200},  {1, 2, 192, 192, 512}, {1, 2, 300, 300, 40, 30},  // maps that are nearly
                                                                                                // one-hot
};

struct Case {
  at::Tensor q, k, v, dout;

  Case(const Shape& s, at::ScalarType dtype) {
    // As the projections give them: the heads of a row side by side.
    const auto rows = [&](int64_t n, uint64_t seed, double gain) {
      const auto generator = at::detail::createCPUGenerator(seed);
      return (at::randn({s.batch, n, s.heads, s.width}, generator) * gain).to(dtype).transpose(1, 2);
    };
    q = rows(s.queries, 1, s.gain), k = rows(s.keys, 2, 1), v = rows(s.keys, 3, 1), dout = rows(s.queries, 4, 1);
  }
};

struct Results {
  at::Tensor out, dq, dk, dv;
};

template <class Make>
Results differentiate(const Case& c, at::ScalarType dtype, Make&& make) {
  const auto leaf = [&](const at::Tensor& x) { return x.to(dtype).detach().requires_grad_(true); };
  const auto q = leaf(c.q), k = leaf(c.k), v = leaf(c.v);
  const auto out = make(q, k, v);
  const auto g = torch::autograd::grad({out}, {q, k, v}, {c.dout.to(dtype)});
  return {out.detach(), g[0], g[1], g[2]};
}

Results flash(const cpu::FlashKernel& kernel, const Case& c, at::ScalarType dtype) {
  const auto kept = self_attention_flash(kernel, c.q.to(dtype), c.k.to(dtype), c.v.to(dtype), true);
  const std::array<at::Tensor, 3> gradient{at::empty_like(kept.q), at::empty_like(kept.k), at::empty_like(kept.v)};
  self_attention_flash_gradient(kernel, kept, c.dout.to(dtype), gradient);
  return {kept.out, gradient[0], gradient[1], gradient[2]};
}

// Root mean square, relative to the exact values'.
double error(const at::Tensor& found, const at::Tensor& expected) {
  const double difference = (found.to(at::kDouble) - expected).square().mean().sqrt().item<double>();
  const double size = expected.square().mean().sqrt().item<double>();
  return size > 0 ? difference / size : difference;
}

}  // namespace

TEST_CASE("self-attention is at most twice as far from float64 as LibTorch's, forward and backward") {
  for (const auto dtype : kTypes) {
    for (const auto& shape : kShapes) {
      const Case c(shape, dtype);
      const auto expected =
          differentiate(c, at::kDouble, [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
            const double scale = 1 / std::sqrt(static_cast<double>(q.size(-1)));
            return at::matmul(at::softmax(at::matmul(q, k.transpose(-1, -2)) * scale, -1), v);
          });
      const auto plain = differentiate(c, dtype, [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
        return at::scaled_dot_product_attention(q, k, v);
      });
      for (const auto* kernel : cpu::flash_kernels(dtype == at::kBFloat16)) {
        CAPTURE(std::string(kernel->name));
        CAPTURE(kernel->bfloat16);
        CAPTURE(shape.queries);
        CAPTURE(shape.keys);
        CAPTURE(shape.width);
        const auto found = flash(*kernel, c, dtype);
        const auto check = [&](const std::string& what, const at::Tensor& a, const at::Tensor& b, const at::Tensor& e) {
          CAPTURE(what);
          CHECK(a.sizes() == b.sizes());
          // Where LibTorch happens to be exact, nearly: a unit of bfloat16, or ten of float32.
          CHECK(error(a, e) <= std::max(2 * error(b, e), dtype == at::kBFloat16 ? 4e-3 : 1.2e-6));
        };
        check("O", found.out, plain.out, expected.out);
        check("dQ", found.dq, plain.dq, expected.dq);
        check("dK", found.dk, plain.dk, expected.dk);
        check("dV", found.dv, plain.dv, expected.dv);
      }
    }
  }
}

TEST_CASE("self-attention of any strides, with and without gradients: the same bits") {
  for (const auto dtype : kTypes) {
    const Case c({2, 2, 130, 130, 40}, dtype);
    for (const auto* kernel : cpu::flash_kernels(dtype == at::kBFloat16)) {
      CAPTURE(std::string(kernel->name));
      const auto reference = flash(*kernel, c, dtype).out;
      const auto q = c.q.contiguous(), k = c.k.transpose(-1, -2).contiguous().transpose(-1, -2);
      const auto v = at::cat({c.v, c.v}, -1).narrow(-1, 40, 40);
      CHECK(at::equal(self_attention_flash(*kernel, q, k, v, false).out, reference));
    }
  }
}

TEST_CASE("self-attention has the same bits again, and for any number of threads") {
  const int threads = at::get_num_threads();
  for (const auto dtype : kTypes) {
    const Case c({1, 3, 700, 700, 40}, dtype);
    for (const auto* kernel : cpu::flash_kernels(dtype == at::kBFloat16)) {
      CAPTURE(std::string(kernel->name));
      at::set_num_threads(1);
      const auto first = flash(*kernel, c, dtype);
      for (const int n : {1, 2, 3}) {
        at::set_num_threads(n);
        const auto again = flash(*kernel, c, dtype);
        CHECK(at::equal(again.out, first.out));
        CHECK(at::equal(again.dq, first.dq));
        CHECK(at::equal(again.dk, first.dk));
        CHECK(at::equal(again.dv, first.dv));
      }
    }
  }
  at::set_num_threads(threads);
}

TEST_CASE("self-attention of extreme logits gives numbers, and NaN stays where it is") {
  for (const auto dtype : kTypes) {
    const Case c({1, 2, 200, 200, 40, 1e4}, dtype);
    for (const auto* kernel : cpu::flash_kernels(dtype == at::kBFloat16)) {
      CAPTURE(std::string(kernel->name));
      const auto found = flash(*kernel, c, dtype);
      for (const auto& x : {found.out, found.dq, found.dk, found.dv}) CHECK(at::isfinite(x).all().item<bool>());
      auto q = c.q.clone();
      q.select(2, 5).fill_(std::nan(""));
      const auto bad = self_attention_flash(*kernel, q, c.k, c.v, false).out;
      CHECK(at::isnan(bad.select(2, 5)).all().item<bool>());
      CHECK(at::isfinite(bad.select(2, 6)).all().item<bool>());
    }
  }
}

TEST_CASE("self-attention of Q, K and V side by side is that of the three apart, forth and back") {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {  // the last one has no kernel
    const Case c({2, 3, 70, 70, 40}, dtype);
    const auto side = [](const at::Tensor& x) { return x.transpose(1, 2).reshape({2, 70, 120}); };
    const auto qkv = at::cat({side(c.q), side(c.k), side(c.v)}, -1).requires_grad_(true);
    const auto y = as_block(qkv, [](const at::Tensor& x, Steps* steps) { return self_attention(x, 3, steps); });
    const auto found = torch::autograd::grad({y}, {qkv}, {side(c.dout)})[0].chunk(3, -1);
    const auto expected = differentiate(c, dtype, [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      return at::scaled_dot_product_attention(q, k, v);
    });
    const double unit = dtype == at::kBFloat16 ? 2e-2 : 1e-5;
    CHECK(error(y, side(expected.out).to(at::kDouble)) < unit);
    CHECK(error(found[0], side(expected.dq).to(at::kDouble)) < unit);
    CHECK(error(found[1], side(expected.dk).to(at::kDouble)) < unit);
    CHECK(error(found[2], side(expected.dv).to(at::kDouble)) < unit);
    c10::NoGradGuard no_grad;
    CHECK(at::equal(self_attention(qkv, 3), y));
  }
}

TEST_CASE("what the kernels of self-attention do not take, or are slower at, is LibTorch's") {
  const auto random = [](at::IntArrayRef shape) { return at::randn(shape); };
  const auto q = random({1, 2, 20, 40});
  const auto* best = cpu::flash_kernels(false).front();
  CHECK(flash_kernel(q, q, q) == (best->best_width < 40 || plain_self_attention_wanted() ? nullptr : best));
  CHECK(flash_kernel(q.to(at::kDouble), q.to(at::kDouble), q.to(at::kDouble)) == nullptr);
  CHECK(flash_kernel(q, q, q.narrow(2, 0, 10)) == nullptr);
  CHECK(flash_kernel(q, q.to(at::kBFloat16), q) == nullptr);
  CHECK(flash_kernel(q.narrow(2, 0, 0), q, q) == nullptr);
  const auto wide = random({1, 1, 20, 512});
  CHECK(flash_kernel(wide, wide, wide) == nullptr);
  CHECK(at::equal(self_attention(wide, wide, wide), at::scaled_dot_product_attention(wide, wide, wide)));
}
