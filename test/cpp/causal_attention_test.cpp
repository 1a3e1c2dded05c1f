// The text encoders' attention, by every kernel of this processor, against float64.
#include "attention/causal_attention.h"

#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attention/fused_cpu.h"
#include "attention/layout.h"
#include "checks.h"
#include "cpu/kernels.h"
#include "difference.h"
#include "node.h"

namespace {

at::Tensor exact(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t L = q.size(2);
  const auto unseen = at::full({L, L}, -std::numeric_limits<double>::infinity(), q.options()).triu_(1);
  const auto logits = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  return at::matmul(at::softmax(logits + unseen, 3), v);
}

struct Results {
  at::Tensor out, dq, dk, dv;
};

template <class Op>
Results differentiate(const std::vector<at::Tensor>& inputs, const at::Tensor& gradient, at::ScalarType dtype, Op op) {
  std::vector<at::Tensor> leaves;
  for (const auto& x : inputs) leaves.push_back(x.to(dtype).detach().requires_grad_());
  const auto out = op(leaves[0], leaves[1], leaves[2]);
  const auto d = torch::autograd::grad({out}, leaves, {gradient.to(dtype)});
  return {out.detach(), d[0], d[1], d[2]};
}

}  // namespace

TEST_CASE("causal attention is at most twice as far from float64 as LibTorch's own, forward and backward") {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const int64_t tokens : {2, 5, 16, 33, 77, 80}) {
      CAPTURE(tokens);
      std::vector<at::Tensor> inputs;
      // As a text encoder has them: heads side by side in a row.
      for (int i = 0; i < 4; ++i) inputs.push_back(at::randn({2, tokens, 3, 64}).to(dtype).transpose(1, 2) * 2);
      const auto gradient = inputs.back();
      inputs.pop_back();
      const auto expected = differentiate(inputs, gradient, at::kDouble, exact);
      const auto theirs = differentiate(inputs, gradient, dtype, [](const auto& q, const auto& k, const auto& v) {
        return at::scaled_dot_product_attention(q, k, v, {}, 0, /*is_causal=*/true);
      });
      const auto check_op = [&](const std::string& name, auto op) {
        CAPTURE(name);
        const auto found = differentiate(inputs, gradient, dtype, op);
        const auto check = [&](const std::string& what, const at::Tensor& found, const at::Tensor& theirs,
                               const at::Tensor& expected) {
          CAPTURE(what);
          const double least = dtype == at::kFloat ? 1e-6 : 1.0 / 512;
          CHECK(difference(found, expected) <= 2 * std::max(difference(theirs, expected), least));
        };
        check("O", found.out, theirs.out, expected.out);
        check("dQ", found.dq, theirs.dq, expected.dq);
        check("dK", found.dk, theirs.dk, expected.dk);
        check("dV", found.dv, theirs.dv, expected.dv);
      };
      check_op("eager", swap::causal_attention_eager);
      for (const auto* kernel : swap::cpu::kernels(dtype == at::kBFloat16)) {
        check_op(kernel->name, [&](const auto& q, const auto& k, const auto& v) {
          return swap::split_attention_fused_cpu(*kernel, q, k, v, {}, {}, true).out;
        });
      }
    }
  }
}

TEST_CASE("what comes later changes nothing in causal attention") {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const auto q = at::randn({1, 2, 40, 32}).to(dtype), k = at::randn({1, 2, 40, 32}).to(dtype);
    const auto v = at::randn({1, 2, 40, 32}).to(dtype);
    const auto out = swap::causal_attention(q, k, v);
    auto other_k = k.clone(), other_v = v.clone();
    other_k.slice(2, 20).fill_(1e4);
    other_v.slice(2, 20).fill_(-1e4);
    const auto other = swap::causal_attention(q, other_k, other_v);
    CHECK(at::equal(out.slice(2, 0, 20), other.slice(2, 0, 20)));
    CHECK_FALSE(at::equal(out.slice(2, 20), other.slice(2, 20)));
  }
}

TEST_CASE("causal attention of Q, K and V side by side is that of the three apart, forth and back") {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {  // the last one has no kernel
    const auto generator = at::detail::createCPUGenerator(5);
    const auto qkv = at::randn({2, 77, 3 * 128}, generator).to(dtype).requires_grad_(true);
    const auto dy = at::randn({2, 77, 128}, generator).to(dtype);
    const auto apart = [&](const at::Tensor& x) {
      return swap::attend_sides(x, 2, [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
        return swap::causal_attention(q, k, v);
      });
    };
    const auto y =
        as_block(qkv, [](const at::Tensor& x, swap::Steps* steps) { return swap::causal_attention(x, 2, steps); });
    CHECK(at::equal(y, apart(qkv)));
    const auto found = torch::autograd::grad({y}, {qkv}, {dy})[0];
    CHECK(at::equal(found, torch::autograd::grad({apart(qkv)}, {qkv}, {dy})[0]));
  }
}
