// Every make of the op in every case of the one list.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "attention_cases.h"
#include "attention_makes.h"
#include "checks.h"
#include "cpu/parallel.h"

using namespace swap;
using namespace attention_cases;

namespace {

constexpr at::ScalarType kTypes[] = {at::kFloat, at::kBFloat16, at::kHalf};

// Calls `check(make)` for every make that takes the case.
template <class Check>
void with_each(const Case& c, at::ScalarType dtype, Check check) {
  for (const auto& make : makes(dtype)) {
    if (!make.takes(c)) continue;
    CAPTURE(make.name);
    CAPTURE(std::string(c10::toString(dtype)));
    check(make);
  }
}

Results differentiate_by(const NamedMake& make, const Case& c, at::ScalarType dtype) {
  return differentiate(c, dtype, make.op, make.device);
}

SplitAttentionResult call(const NamedMake& make, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& k_ref, const at::Tensor& weights) {
  const auto moved = [&](const at::Tensor& x) { return x.defined() ? x.to(make.device) : x; };
  const auto result = make.op(moved(q), moved(k), moved(v), moved(k_ref), moved(weights));
  return {result.out.to(at::kCPU), result.loss.defined() ? result.loss.to(at::kCPU) : at::Tensor()};
}

void check_error(const std::string& what, const at::Tensor& found, const at::Tensor& plain, const at::Tensor& expected,
                 at::ScalarType dtype) {
  CAPTURE(what);
  CHECK(error(found, expected) <= allowed(error(plain, expected), dtype));
}

}  // namespace

TEST_CASE("every make is at most twice as far from float64 as the plain version, forward and backward") {
  for (const auto dtype : kTypes) {
    for (const auto& shape : kShapes) {
      const Case c(shape, dtype);
      const auto expected = exact(c), plain = eager(c, dtype);
      with_each(c, dtype, [&](const NamedMake& make) {
        CAPTURE(shape.batch);
        CAPTURE(shape.queries);
        CAPTURE(shape.tokens);
        CAPTURE(shape.width);
        CAPTURE(shape.gain);
        const auto found = differentiate_by(make, c, dtype);
        CHECK(found.out.sizes() == plain.out.sizes());
        check_error("O", found.out, plain.out, expected.out, dtype);
        CHECK(found.loss.defined() == plain.loss.defined());
        if (plain.loss.defined()) check_error("loss", found.loss, plain.loss, expected.loss, dtype);
        check_error("dQ", found.dq, plain.dq, expected.dq, dtype);
        check_error("dK", found.dk, plain.dk, expected.dk, dtype);
        check_error("dV", found.dv, plain.dv, expected.dv, dtype);
      });
    }
  }
}

TEST_CASE("the maps themselves, and the same output beside them") {
  for (const auto dtype : kTypes) {
    for (const auto& shape :
         {Shape{2, 2, 97, 77, 40}, Shape{1, 3, 17, 80, 80}, Shape{1, 2, 65, 1, 160}, Shape{1, 1, 33, 2, 64}}) {
      const Case c(shape, dtype);
      const double scale = 1 / std::sqrt(static_cast<double>(shape.width));
      const auto logits = at::matmul(c.q.to(at::kDouble), c.k.to(at::kDouble).transpose(-1, -2)) * scale;
      const auto expected = at::softmax(logits, -1);
      const auto plain = attention_maps_eager(c.q, c.k, c.v);
      with_each(c, dtype, [&](const NamedMake& make) {
        const auto found = make.maps(c.q.to(make.device), c.k.to(make.device), c.v.to(make.device));
        CHECK((found.maps.scalar_type() == at::kFloat));
        CHECK(found.maps.sizes() == expected.sizes());
        check_error("A_t", found.maps.to(at::kCPU), plain.maps, expected, dtype);
        if (make.same_bits) CHECK(at::equal(found.out.to(at::kCPU), call(make, c.q, c.k, c.v, {}, {}).out));
      });
    }
  }
}

TEST_CASE("tensors of any strides") {
  for (const auto dtype : kTypes) {
    const Case c({2, 2, 70, 77, 40}, dtype);
    const auto q = c.q.contiguous(), k = c.k.transpose(-1, -2).contiguous().transpose(-1, -2);
    const auto v = at::cat({c.v, c.v}, -1).narrow(-1, 39, 40), k_ref = c.k_ref.expand({2, 2, 77, 40});
    const auto weights = at::stack({c.weights, c.weights}, 1).select(1, 0);
    with_each(c, dtype, [&](const NamedMake& make) {
      const auto reference = call(make, c.q, c.k, v.clone(), c.k_ref, c.weights);
      const auto found = call(make, q, k, v, k_ref, weights);
      CHECK(at::equal(found.out, reference.out));
      CHECK(at::equal(found.loss, reference.loss));
    });
  }
}

TEST_CASE("the same bits again, and for any number of threads") {
  const int threads = at::get_num_threads();
  for (const auto dtype : kTypes) {
    const Case c({2, 3, 1100, 77, 40}, dtype);
    with_each(c, dtype, [&](const NamedMake& make) {
      if (!make.same_bits) return;
      at::set_num_threads(1);
      const auto first = differentiate_by(make, c, dtype);
      for (const int n : {1, 2, 3}) {
        if (n != 2 && make.name.rfind("cuda", 0) == 0) continue;  // its threads are not LibTorch's
        at::set_num_threads(n);
        const auto again = differentiate_by(make, c, dtype);
        CHECK(at::equal(again.out, first.out));
        CHECK(at::equal(again.loss, first.loss));
        CHECK(at::equal(again.dq, first.dq));
        CHECK(at::equal(again.dk, first.dk));
        CHECK(at::equal(again.dv, first.dv));
      }
    });
  }
  at::set_num_threads(threads);
}

TEST_CASE("extreme logits give numbers, and NaN stays NaN") {
  for (const auto dtype : kTypes) {
    for (const int64_t width : {40, 160}) {
      // Half itself ends at 65504, and dK is as large as Q.
      for (const double gain : dtype == at::kHalf ? std::vector<double>{1e3} : std::vector<double>{1e4, 1e18}) {
        const Case c({1, 2, 70, 77, width, gain}, dtype);
        with_each(c, dtype, [&](const NamedMake& make) {
          CAPTURE(gain);
          const auto found = differentiate_by(make, c, dtype);
          for (const auto& x : {found.out, found.loss, found.dq, found.dk, found.dv}) {
            CHECK(at::isfinite(x).all().item<bool>());
          }
        });
      }
    }
    const Case c({1, 2, 70, 77, 40}, dtype);
    with_each(c, dtype, [&](const NamedMake& make) {
      auto q = c.q.clone();
      q.select(2, 5).fill_(std::nan(""));
      const auto bad = call(make, q, c.k, c.v, c.k_ref, c.weights);
      CHECK(at::isnan(bad.out.select(2, 5)).all().item<bool>());
      CHECK(at::isfinite(bad.out.select(2, 6)).all().item<bool>());
      CHECK(at::isnan(bad.loss).all().item<bool>());
    });
  }
}

TEST_CASE("weights of zero, and keys that are the reference's, leave a loss of exactly zero") {
  for (const auto dtype : kTypes) {
    const Case c({1, 2, 70, 77, 40}, dtype);
    with_each(c, dtype, [&](const NamedMake& make) {
      CHECK(call(make, c.q, c.k, c.v, c.k_ref, at::zeros({77})).loss.item<float>() == 0);
      CHECK(call(make, c.q, c.k, c.v, c.k, {}).loss.item<float>() == 0);
    });
  }
}

TEST_CASE("gradients by finite differences, with A_r at the Q that it was made from") {
  for (const auto dtype : kTypes) {
    for (const int64_t width : {40, 160}) {
      const Case c({1, 2, 67, 77, width}, dtype);
      const auto objective = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
        const double scale = 1 / std::sqrt(static_cast<double>(width));
        const auto map = [&](const at::Tensor& x, const at::Tensor& y) {
          return at::softmax(at::matmul(x, y.transpose(-1, -2)) * scale, -1);
        };
        const auto a = map(q, k), squared = (a - map(c.q.to(at::kDouble), c.k_ref.to(at::kDouble))).square();
        const auto loss = (squared * c.weights.to(at::kDouble)).sum({1, 2, 3}) / 2.0;
        return ((at::matmul(a, v) * c.dout).sum() + (loss * c.dloss).sum()).item<double>();
      };
      const at::Tensor at_point[] = {c.q.to(at::kDouble), c.k.to(at::kDouble), c.v.to(at::kDouble)};
      with_each(c, dtype, [&](const NamedMake& make) {
        const auto found = differentiate_by(make, c, dtype);
        const at::Tensor gradients[] = {found.dq, found.dk, found.dv};
        for (int i = 0; i < 3; ++i) {
          CAPTURE(i);
          const auto direction = random(at_point[i].sizes(), 20 + i).to(at::kDouble);
          at::Tensor up[] = {at_point[0], at_point[1], at_point[2]}, down[] = {at_point[0], at_point[1], at_point[2]};
          up[i] = up[i] + 1e-4 * direction, down[i] = down[i] - 1e-4 * direction;
          const double expected = (objective(up[0], up[1], up[2]) - objective(down[0], down[1], down[2])) / 2e-4;
          const auto gradient = gradients[i].to(at::kDouble);
          // Against the gradient's length, which is what the product with a random direction is on average.
          const double length = gradient.square().sum().sqrt().item<double>();
          const double off = std::abs((gradient * direction).sum().item<double>() - expected);
          CHECK(off < (dtype == at::kFloat ? 1e-5 : 0.01) * length);
        }
      });
    }
  }
}

TEST_CASE("only the gradients that are wanted, of O alone or of the loss alone") {
  for (const auto dtype : kTypes) {
    const Case c({2, 2, 300, 77, 40}, dtype);
    const auto k = c.k.detach().requires_grad_(true);
    const auto plain = split_attention_eager(c.q, k, c.v, c.k_ref, c.weights);
    with_each(c, dtype, [&](const NamedMake& make) {
      const auto key = k.detach().to(make.device).requires_grad_(true);
      const auto moved = [&](const at::Tensor& x) { return x.to(make.device); };
      const auto both = make.op(moved(c.q), key, moved(c.v), moved(c.k_ref), moved(c.weights));
      for (const bool of_loss : {false, true}) {
        const auto pick = [&](const SplitAttentionResult& r, const at::Tensor& leaf) {
          const auto objective = of_loss ? r.loss.sum() : r.out.to(at::kFloat).square().sum();
          return torch::autograd::grad({objective}, {leaf}, {}, true)[0].to(at::kCPU, at::kDouble);
        };
        CHECK(error(pick(both, key), pick(plain, k)) < (dtype == at::kFloat ? 1e-5 : 0.02));
      }
    });
  }
}

TEST_CASE("what the CPU's kernels do not take goes to the plain version") {
  const auto q = random({1, 2, 20, 40}, 1), k = random({1, 2, 81, 40}, 2), v = random({1, 2, 81, 40}, 3);
  CHECK(fused_cpu_kernel(q, k, v, {}, {}) == nullptr);
  CHECK(split_attention(q, k, v, k * 2).loss.item<float>() > 0);
  CHECK(attention_maps(q, k, v).maps.sum().item<float>() == doctest::Approx(40));
  const auto few = k.narrow(2, 0, 80);
  CHECK(fused_cpu_kernel(q, few, few, {}, {}) != nullptr);
  CHECK(fused_cpu_kernel(q, few, few, few.to(at::kBFloat16), {}) == nullptr);
  CHECK(fused_cpu_kernel(q.to(at::kDouble), few.to(at::kDouble), few.to(at::kDouble), {}, {}) == nullptr);
  CHECK(fused_cpu_kernel(q.narrow(2, 0, 0), few, few, {}, {}) == nullptr);
  const auto name = plain_attention_wanted() ? "eager" : std::string("cpu-") + cpu::kernels(false).front()->name;
  CHECK(attention_name(at::kCPU, at::kFloat) == name);
  CHECK(attention_name(at::kCPU, at::kDouble) == "eager");
}

TEST_CASE("what the CUDA kernels do not take") {
  const auto q = random({2, 2, 20, 40}, 1).to(at::kHalf), k = random({2, 2, 80, 40}, 2).to(at::kHalf);
  const auto weights = at::ones({80});
  CHECK(fused_cuda_shapes(q, k, k, k, weights));
  CHECK(fused_cuda_shapes(q, k, k, k.narrow(0, 0, 1), {}));
  CHECK(!fused_cuda_shapes(q.to(at::kFloat), k.to(at::kFloat), k.to(at::kFloat), {}, {}));
  CHECK(!fused_cuda_shapes(q, k, k, k.to(at::kBFloat16), {}));
  CHECK(!fused_cuda_shapes(q, k, k, k, at::ones({79})));
  CHECK(!fused_cuda_shapes(q.narrow(3, 0, 24), k.narrow(3, 0, 24), k.narrow(3, 0, 24), {}, {}));
  CHECK(!fused_cuda_shapes(q.narrow(2, 0, 0), k, k, {}, {}));
  const auto many = at::cat({k, k}, 2);
  CHECK(!fused_cuda_shapes(q, many, many, {}, {}));
  // Tensors on a CPU are not theirs, and an engine for CPUs has none.
  CHECK(!fused_cuda_takes(q, k, k, k, weights));
#if !defined(SWAP_CUDA)
  CHECK(cuda_launcher() == nullptr);
  CHECK(attention_name(at::Device(at::kCUDA, 0), at::kHalf) == "eager");
#endif
}

TEST_CASE("on a GPU") {
  if (!cuda_launcher() || !at::hasCUDA()) {
    const std::string why = cuda_launcher() ? "LibTorch finds no GPU" : "this is the build for CPUs";
    MESSAGE("not run on a GPU: " << why);
    return;
  }
  CHECK(attention_name(at::Device(at::kCUDA, 0), at::kBFloat16) == "cuda");
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
