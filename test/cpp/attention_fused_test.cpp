// One list of cases for every make of the op that this machine has: each kernel by its instruction set, against the
// definition in float64 and against the plain version's error in the same dtype.
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "attention/cpu/kernels.h"
#include "attention/cpu/parallel.h"
#include "attention/fused_cpu.h"
#include "attention/split_attention.h"
#include "checks.h"

using namespace swap;

namespace {

at::Tensor random(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::TensorOptions().dtype(at::kFloat));
}

struct Shape {
  int64_t batch, heads, queries, tokens, width;
  double gain = 1;  // of Q
  bool reference = true, weighted = true, per_sample = false;
  double dout = 1, dloss = 1;
};

const std::vector<Shape> kShapes = {
    {1, 2, 1, 77, 40},
    {1, 2, 15, 77, 40},
    {2, 2, 16, 77, 64},
    {1, 3, 17, 77, 80},
    {1, 2, 64, 77, 160},
    {2, 8, 64, 77, 160, 1, true, true, true},
    {1, 2, 4096, 77, 40},
    {1, 2, 1025, 76, 80, 3},
    {1, 1, 333, 80, 64},
    {1, 2, 129, 1, 40},
    {1, 2, 65, 2, 32},
    {2, 1, 41, 15, 24},
    {1, 1, 63, 16, 32},
    {1, 2, 97, 17, 40},
    {1, 2, 100, 33, 48},
    {1, 2, 100, 49, 96},
    {1, 2, 77, 77, 7},
    {1, 2, 50, 77, 1},
    {1, 1, 50, 77, 200},
    {1, 2, 130, 77, 40, 30},                          // maps that are nearly one-hot
    {1, 2, 130, 77, 40, 1, true, false, true},        // no weights
    {2, 2, 130, 77, 64, 1, false},                    // the inference form
    {2, 2, 130, 77, 40, 1, true, true, false, 1, 0},  // dloss = 0
    {2, 2, 130, 77, 40, 1, true, true, false, 0, 1},  // dO = 0
};

struct Case {
  at::Tensor q, k, v, k_ref, weights, dout, dloss;

  Case(const Shape& s, at::ScalarType dtype) {
    // As the projections give them: the heads of a row side by side.
    const auto rows = [&](int64_t batch, int64_t n, uint64_t seed, double gain) {
      return (random({batch, n, s.heads, s.width}, seed) * gain).to(dtype).transpose(1, 2);
    };
    q = rows(s.batch, s.queries, 1, s.gain), k = rows(s.batch, s.tokens, 2, 1), v = rows(s.batch, s.tokens, 3, 1);
    if (s.reference) k_ref = rows(s.per_sample ? s.batch : 1, s.tokens, 4, 1);
    if (s.reference && s.weighted) weights = random({s.tokens}, 5).abs();
    dout = rows(s.batch, s.queries, 6, s.dout);
    dloss = random({s.batch}, 7) * s.dloss;
  }
};

struct Results {
  at::Tensor out, loss, dq, dk, dv;
};

using Make = std::function<SplitAttentionResult(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)>;

Results differentiate(const Case& c, at::ScalarType dtype, const Make& make) {
  const auto leaf = [&](const at::Tensor& x) { return x.to(dtype).detach().requires_grad_(true); };
  const auto q = leaf(c.q), k = leaf(c.k), v = leaf(c.v);
  const auto result = make(q, k, v);
  torch::autograd::variable_list outputs{result.out}, seeds{c.dout.to(dtype)};
  if (result.loss.defined()) {
    outputs.push_back(result.loss);
    seeds.push_back(c.dloss.to(result.loss.scalar_type()));
  }
  const auto g = torch::autograd::grad(outputs, {q, k, v}, seeds);
  return {result.out.detach(), result.loss.defined() ? result.loss.detach() : at::Tensor(), g[0], g[1], g[2]};
}

// The definition.
Results exact(const Case& c) {
  return differentiate(c, at::kDouble, [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const double scale = 1 / std::sqrt(static_cast<double>(q.size(-1)));
    const auto map = at::softmax(at::matmul(q, k.transpose(-1, -2)) * scale, -1);
    SplitAttentionResult result{at::matmul(map, v), {}};
    if (c.k_ref.defined()) {
      const auto logits = at::matmul(q.detach(), c.k_ref.to(at::kDouble).transpose(-1, -2)) * scale;
      auto squared = (map - at::softmax(logits, -1)).square();
      if (c.weights.defined()) squared = squared * c.weights.to(at::kDouble);
      result.loss = squared.sum({1, 2, 3}) / static_cast<double>(q.size(1));
    }
    return result;
  });
}

Results eager(const Case& c, at::ScalarType dtype) {
  return differentiate(c, dtype, [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return split_attention_eager(q, k, v, c.k_ref, c.weights);
  });
}

Results fused(const cpu::Kernel& kernel, const Case& c, at::ScalarType dtype) {
  return differentiate(c, dtype, [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return split_attention_fused_cpu(kernel, q, k, v, c.k_ref, c.weights);
  });
}

// Root mean square, relative to the exact values'.
double error(const at::Tensor& found, const at::Tensor& expected) {
  const double difference = (found.to(at::kDouble) - expected).square().mean().sqrt().item<double>();
  const double size = expected.square().mean().sqrt().item<double>();
  return size > 0 ? difference / size : difference;
}

void check_error(const std::string& what, const at::Tensor& found, const at::Tensor& plain, const at::Tensor& expected,
                 at::ScalarType dtype) {
  // Where eager happens to be exact, nearly: a hundredth of the dtype's precision, or ten units of float32.
  const double least = dtype == at::kBFloat16 ? 4e-5 : 1.2e-6;
  CAPTURE(what);
  CHECK(error(found, expected) <= std::max(2 * error(plain, expected), least));
}

constexpr at::ScalarType kTypes[] = {at::kFloat, at::kBFloat16};

}  // namespace

TEST_CASE("every kernel is at most twice as far from float64 as the plain version, forward and backward") {
  for (const auto dtype : kTypes) {
    for (const auto& shape : kShapes) {
      const Case c(shape, dtype);
      const auto expected = exact(c), plain = eager(c, dtype);
      for (const auto* kernel : cpu::kernels(dtype == at::kBFloat16)) {
        CAPTURE(std::string(kernel->name));
        CAPTURE(kernel->bfloat16);
        CAPTURE(shape.batch);
        CAPTURE(shape.queries);
        CAPTURE(shape.tokens);
        CAPTURE(shape.width);
        CAPTURE(shape.gain);
        const auto found = fused(*kernel, c, dtype);
        CHECK(found.out.sizes() == plain.out.sizes());
        check_error("O", found.out, plain.out, expected.out, dtype);
        CHECK(found.loss.defined() == plain.loss.defined());
        if (plain.loss.defined()) check_error("loss", found.loss, plain.loss, expected.loss, dtype);
        check_error("dQ", found.dq, plain.dq, expected.dq, dtype);
        check_error("dK", found.dk, plain.dk, expected.dk, dtype);
        check_error("dV", found.dv, plain.dv, expected.dv, dtype);
      }
    }
  }
}

TEST_CASE("the kernels take tensors of any strides") {
  for (const auto dtype : kTypes) {
    const Case c({2, 2, 70, 77, 40}, dtype);
    for (const auto* kernel : cpu::kernels(dtype == at::kBFloat16)) {
      CAPTURE(std::string(kernel->name));
      const auto reference = split_attention_fused_cpu(*kernel, c.q, c.k, c.v, c.k_ref, c.weights);
      const auto q = c.q.contiguous(), k = c.k.transpose(-1, -2).contiguous().transpose(-1, -2);
      const auto v = at::cat({c.v, c.v}, -1).narrow(-1, 40, 40), k_ref = c.k_ref.expand({2, 2, 77, 40});
      const auto weights = at::stack({c.weights, c.weights}, 1).select(1, 0);
      const auto found = split_attention_fused_cpu(*kernel, q, k, v, k_ref, weights);
      CHECK(at::equal(found.out, reference.out));
      CHECK(at::equal(found.loss, reference.loss));
    }
  }
}

TEST_CASE("the same bits again, and for any number of threads") {
  const int threads = at::get_num_threads();
  for (const auto dtype : kTypes) {
    const Case c({2, 3, 1100, 77, 40}, dtype);
    for (const auto* kernel : cpu::kernels(dtype == at::kBFloat16)) {
      CAPTURE(std::string(kernel->name));
      at::set_num_threads(1);
      const auto first = fused(*kernel, c, dtype);
      for (const int n : {1, 2, 3}) {
        at::set_num_threads(n);
        const auto again = fused(*kernel, c, dtype);
        CHECK(at::equal(again.out, first.out));
        CHECK(at::equal(again.loss, first.loss));
        CHECK(at::equal(again.dq, first.dq));
        CHECK(at::equal(again.dk, first.dk));
        CHECK(at::equal(again.dv, first.dv));
      }
    }
  }
  at::set_num_threads(threads);
}

TEST_CASE("extreme logits give numbers, and NaN stays NaN") {
  for (const auto dtype : kTypes) {
    const Case c({1, 2, 70, 77, 40, 1e4}, dtype);
    for (const auto* kernel : cpu::kernels(dtype == at::kBFloat16)) {
      CAPTURE(std::string(kernel->name));
      const auto found = fused(*kernel, c, dtype);
      for (const auto& x : {found.out, found.loss, found.dq, found.dk, found.dv}) {
        CHECK(at::isfinite(x).all().item<bool>());
      }
      auto q = c.q.clone();
      q.select(2, 5).fill_(std::nan(""));
      const auto bad = split_attention_fused_cpu(*kernel, q, c.k, c.v, c.k_ref, c.weights);
      CHECK(at::isnan(bad.out.select(2, 5)).all().item<bool>());
      CHECK(at::isfinite(bad.out.select(2, 6)).all().item<bool>());
      CHECK(at::isnan(bad.loss).all().item<bool>());
    }
  }
}

TEST_CASE("weights of zero, and keys that are the reference's, leave a loss of exactly zero") {
  for (const auto dtype : kTypes) {
    const Case c({1, 2, 70, 77, 40}, dtype);
    for (const auto* kernel : cpu::kernels(dtype == at::kBFloat16)) {
      CAPTURE(std::string(kernel->name));
      CHECK(split_attention_fused_cpu(*kernel, c.q, c.k, c.v, c.k_ref, at::zeros({77})).loss.item<float>() == 0);
      CHECK(split_attention_fused_cpu(*kernel, c.q, c.k, c.v, c.k, {}).loss.item<float>() == 0);
    }
  }
}

TEST_CASE("dQ by finite differences, with A_r at the Q that it was made from") {
  const Shape shape{1, 2, 67, 77, 40};
  Case c(shape, at::kFloat);
  const auto objective = [&](const at::Tensor& q) {
    const double scale = 1 / std::sqrt(40.0);
    const auto map = [&](const at::Tensor& x, const at::Tensor& k) {
      return at::softmax(at::matmul(x, k.to(at::kDouble).transpose(-1, -2)) * scale, -1);
    };
    const auto a = map(q, c.k), squared = (a - map(c.q.to(at::kDouble), c.k_ref)).square();
    const auto loss = (squared * c.weights.to(at::kDouble)).sum({1, 2, 3}) / 2.0;
    return ((at::matmul(a, c.v.to(at::kDouble)) * c.dout).sum() + (loss * c.dloss).sum()).item<double>();
  };
  const auto direction = random({1, 2, 67, 40}, 20).to(at::kDouble);
  const auto q = c.q.to(at::kDouble);
  const double expected = (objective(q + 1e-4 * direction) - objective(q - 1e-4 * direction)) / 2e-4;
  for (const auto* kernel : cpu::kernels(false)) {
    CAPTURE(std::string(kernel->name));
    const auto found = fused(*kernel, c, at::kFloat);
    CHECK((found.dq * direction).sum().item<double>() == doctest::Approx(expected).epsilon(1e-4));
  }
}

TEST_CASE("only the gradients that are wanted, of O alone or of the loss alone") {
  const Case c({2, 2, 300, 77, 40}, at::kFloat);
  const auto* kernel = cpu::kernels(false).front();
  const auto k = c.k.detach().requires_grad_(true);
  const auto both = split_attention_fused_cpu(*kernel, c.q, k, c.v, c.k_ref, c.weights);
  const auto plain = split_attention_eager(c.q, k, c.v, c.k_ref, c.weights);
  for (const bool of_loss : {false, true}) {
    const auto pick = [&](const SplitAttentionResult& r) {
      return torch::autograd::grad({of_loss ? r.loss.sum() : r.out.square().sum()}, {k}, {}, true)[0];
    };
    CHECK(error(pick(both), pick(plain).to(at::kDouble)) < 1e-5);
  }
}

TEST_CASE("what the kernels do not take goes to the plain version") {
  const auto q = random({1, 2, 20, 40}, 1), k = random({1, 2, 81, 40}, 2), v = random({1, 2, 81, 40}, 3);
  CHECK(fused_cpu_kernel(q, k, v, {}, {}) == nullptr);
  CHECK(split_attention(q, k, v, k * 2).loss.item<float>() > 0);
  const auto few = k.narrow(2, 0, 80);
  CHECK(fused_cpu_kernel(q, few, few, {}, {}) != nullptr);
  CHECK(fused_cpu_kernel(q, few, few, few.to(at::kBFloat16), {}) == nullptr);
  CHECK(fused_cpu_kernel(q.to(at::kDouble), few.to(at::kDouble), few.to(at::kDouble), {}, {}) == nullptr);
  CHECK(fused_cpu_kernel(q.narrow(2, 0, 0), few, few, {}, {}) == nullptr);
  const bool plain = std::getenv("SWAP_ATTENTION") && std::string(std::getenv("SWAP_ATTENTION")) == "eager";
  const auto name = plain ? "eager" : std::string("cpu-") + cpu::kernels(false).front()->name;
  CHECK(attention_name(at::kCPU, at::kFloat) == name);
  CHECK(attention_name(at::kCPU, at::kDouble) == "eager");
}

TEST_CASE("items run on more than one of LibTorch's threads at the same time") {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  std::atomic<int> begun{0};
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  // Each of the two waits for the other to begin: one thread alone would wait in vain.
  cpu::run_parallel(2, [&](int64_t, int64_t) {
    ++begun;
    while (begun < 2 && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
  });
  CHECK(std::chrono::steady_clock::now() < give_up);
  at::set_num_threads(threads);
}
