// The split cross-attention op against its definition, and cancellation on the way back through it.
#include <torch/csrc/autograd/autograd.h>

#include <atomic>
#include <cmath>

#include "attention/split_attention.h"
#include "checks.h"
#include "difference.h"
#include "node.h"
#include "runtime/cancel.h"

using namespace swap;

namespace {

at::Tensor random(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::TensorOptions().dtype(at::kFloat));
}

struct Case {
  at::Tensor q = random({2, 3, 17, 8}, 1), k = random({2, 3, 7, 8}, 2), v = random({2, 3, 7, 8}, 3);
  at::Tensor k_ref = random({1, 3, 7, 8}, 4), weights = random({7}, 5).abs();
};

// The definition in fp64; `reference_q` is the Q that A_r is made from.
double objective(const Case& c, const at::Tensor& reference_q, const at::Tensor& dout, const at::Tensor& dloss) {
  const auto map = [](const at::Tensor& q, const at::Tensor& k) {
    return at::softmax(at::matmul(q.to(at::kDouble), k.to(at::kDouble).transpose(-1, -2)) / std::sqrt(8.0), -1);
  };
  const auto a = map(c.q, c.k);
  const auto squared = (a - map(reference_q, c.k_ref)).square() * c.weights.to(at::kDouble);
  const auto loss = squared.sum({1, 2, 3}) / 3.0;
  return ((at::matmul(a, c.v.to(at::kDouble)) * dout).sum() + (loss * dloss).sum()).item<double>();
}

double relative(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

}  // namespace

TEST_CASE("without a reference there is an output and no loss") {
  const Case c;
  const auto result = split_attention(c.q, c.k, c.v);
  CHECK(!result.loss.defined());
  const auto map = at::softmax(at::matmul(c.q, c.k.transpose(-1, -2)) / std::sqrt(8.0), -1);
  CHECK(relative(result.out, at::matmul(map, c.v)) < 1e-5);
}

TEST_CASE("the loss is zero where the reference's keys are the keys, and it does not touch the output") {
  const Case c;
  const auto same = split_attention(c.q, c.k, c.v, c.k);
  CHECK(same.loss.abs().max().item<float>() == 0);
  const auto other = split_attention(c.q, c.k, c.v, c.k_ref, c.weights);
  CHECK(other.loss.min().item<float>() > 0);
  CHECK(relative(other.out, same.out) == 0);
}

TEST_CASE("token weights of zero leave no loss") {
  const Case c;
  CHECK(split_attention(c.q, c.k, c.v, c.k_ref, at::zeros({7})).loss.abs().max().item<float>() == 0);
}

TEST_CASE("gradients are the definition's, with A_r a constant") {
  Case c;
  for (auto* input : {&c.q, &c.k, &c.v}) input->set_requires_grad(true);
  const auto dout = random({2, 3, 17, 8}, 6).to(at::kDouble), dloss = at::tensor({0.7, -1.3});
  const auto result = split_attention(c.q, c.k, c.v, c.k_ref, c.weights);
  const auto gradients =
      torch::autograd::grad({result.out, result.loss}, {c.q, c.k, c.v}, {dout.to(at::kFloat), dloss.to(at::kFloat)});
  const auto anchor = c.q.detach().clone();
  // Central differences along random directions: with A_r from the moving Q they would differ.
  constexpr double kStep = 1e-3;
  at::Tensor* inputs[] = {&c.q, &c.k, &c.v};
  for (int i = 0; i < 3; ++i) {
    CAPTURE(i);
    const auto direction = random(inputs[i]->sizes(), 10 + i);
    const auto base = inputs[i]->detach().clone();
    *inputs[i] = base + kStep * direction;
    const double above = objective(c, anchor, dout, dloss);
    *inputs[i] = base - kStep * direction;
    const double below = objective(c, anchor, dout, dloss);
    *inputs[i] = base;
    const double expected = (above - below) / (2 * kStep);
    const double found = (gradients[i] * direction).sum().item<double>();
    CHECK(found == doctest::Approx(expected).epsilon(1e-3));
  }
}

TEST_CASE("extreme logits give numbers") {
  const Case c;
  const auto result = split_attention(c.q * 1e4, c.k, c.v, c.k_ref * -1, c.weights);
  CHECK(at::isfinite(result.out).all().item<bool>());
  CHECK(at::isfinite(result.loss).all().item<bool>());
}

TEST_CASE("a cancel takes effect in the backward pass") {
  std::atomic<bool> flag{false};
  const Cancel cancel(&flag);
  auto x = random({4}, 1);
  x.set_requires_grad(true);
  const auto guarded = [&](const at::Tensor& value) {
    return as_block(value, [&](const at::Tensor& input, Steps* steps) {
      check(cancel, steps);
      return input + 0;
    });
  };
  const auto y = guarded(x * 2).sum();
  flag = true;
  CHECK_THROWS_AS(gradients(y, {x}), Cancelled);
  CHECK_THROWS_AS(guarded(x), Cancelled);
}

TEST_CASE("a cancelled backward pass leaves none of its graph behind") {
  std::atomic<bool> flag{false};
  const Cancel cancel(&flag);
  auto x = random({4}, 1);
  x.set_requires_grad(true);
  at::Tensor activation = x * 2;
  at::Tensor waits =
      activation.sin();  // saves `activation`; older than the branch that is cancelled, so it comes later
  const auto guarded = as_block(x * 3, [&](const at::Tensor& input, Steps* steps) {
    check(cancel, steps);
    return input + 0;
  });
  at::Tensor loss = waits.sum() + guarded.sum();
  const c10::weak_intrusive_ptr<c10::TensorImpl> saved(activation.getIntrusivePtr());
  activation.reset();
  waits.reset();
  flag = true;
  CHECK_THROWS_AS(gradients(loss, {x}), Cancelled);
  loss.reset();
  CHECK(saved.expired());
}

TEST_CASE("the way back of split attention as a function is that of its node") {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {  // the last one has no kernel
    const auto make = [&](at::IntArrayRef shape, uint64_t seed) { return random(shape, seed).to(dtype); };
    const auto q = make({2, 3, 40, 16}, 1), k = make({2, 3, 9, 16}, 2), v = make({2, 3, 9, 16}, 3);
    const auto reference = make({1, 3, 9, 16}, 4), dout = make({2, 3, 40, 16}, 5);
    const auto leaf = [](const at::Tensor& x) { return x.detach().requires_grad_(true); };
    const auto lq = leaf(q), lk = leaf(k), lv = leaf(v);
    const auto node = split_attention(lq, lk, lv, reference);
    for (const bool with_loss : {true, false}) {
      const auto [result, gradient] = split_attention_and_gradient(q, k, v, reference, {});
      CHECK(at::equal(result.out, node.out));
      CHECK(at::equal(result.loss, node.loss));
      const auto dloss = with_loss ? at::full({2}, 0.5, node.loss.options().requires_grad(false)) : at::Tensor();
      const auto total = (node.out * dout).sum() + (with_loss ? (node.loss * 0.5).sum() : at::zeros({}, dtype));
      const auto expected = torch::autograd::grad({total}, {lq, lk, lv}, {}, /*retain_graph=*/true);
      const auto found = gradient(dout, dloss, true);
      const double unit = dtype == at::kBFloat16 ? 2e-2 : 1e-5;
      for (size_t i = 0; i < 3; ++i) CHECK(difference(found[i], expected[i].to(at::kDouble)) < unit);
    }
    const auto only = split_attention_and_gradient(q, k, v, reference, {}).second(dout, {}, false);
    CHECK(only[1].defined());
  }
}
