// The cases of attention_shapes.h as tensors, and what a make must hold in each: against the definition in
// float64, and against the plain version's error in the same dtype.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "attention/split_attention.h"
#include "attention_shapes.h"

namespace attention_cases {

using swap::SplitAttentionResult;

inline at::Tensor random(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::TensorOptions().dtype(at::kFloat));
}

struct Case {
  at::Tensor q, k, v, k_ref, weights, dout, dloss;

  Case(const Shape& s, at::ScalarType dtype) {
    // As the projections give them: the heads of a row side by side.
    const auto rows = [&](int64_t batch, int64_t n, uint64_t seed, double gain) {
      return (random({batch, n, s.heads, s.width}, seed) * gain).to(dtype).transpose(1, 2);
    };
    q = rows(s.batch, s.queries, 1, s.gain), k = rows(s.batch, s.tokens, 2, 1), v = rows(s.batch, s.tokens, 3, 1);
    if (s.reference) k_ref = rows(s.per_sample ? s.batch : 1, s.tokens, 4, 1);
    if (s.reference && s.weighted) weights = random({s.tokens}, 5).abs() * s.weight;
    dout = rows(s.batch, s.queries, 6, s.dout);
    dloss = random({s.batch}, 7) * s.dloss;
  }
};

struct Results {
  at::Tensor out, loss, dq, dk, dv;
};

// The op as split_attention() has it.
using Make = std::function<SplitAttentionResult(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                const at::Tensor& k_ref, const at::Tensor& weights)>;

// O, loss and gradients on the CPU, computed on `device`.
inline Results differentiate(const Case& c, at::ScalarType dtype, const Make& make, at::Device device = at::kCPU) {
  const auto leaf = [&](const at::Tensor& x) { return x.to(device, dtype).detach().requires_grad_(true); };
  const auto moved = [&](const at::Tensor& x) { return x.defined() ? x.to(device) : x; };
  const auto q = leaf(c.q), k = leaf(c.k), v = leaf(c.v);
  const auto result = make(q, k, v, moved(c.k_ref), moved(c.weights));
  torch::autograd::variable_list outputs{result.out}, seeds{c.dout.to(device, dtype)};
  if (result.loss.defined()) {
    outputs.push_back(result.loss);
    seeds.push_back(c.dloss.to(device, result.loss.scalar_type()));
  }
  const auto g = torch::autograd::grad(outputs, {q, k, v}, seeds);
  const auto back = [](const at::Tensor& x) { return x.defined() ? x.detach().to(at::kCPU) : x; };
  return {back(result.out), back(result.loss), back(g[0]), back(g[1]), back(g[2])};
}

// The definition.
inline Results exact(const Case& c) {
  return differentiate(c, at::kDouble, [&](const auto& q, const auto& k, const auto& v, const auto&, const auto&) {
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

inline Results eager(const Case& c, at::ScalarType dtype) {
  return differentiate(c, dtype, swap::split_attention_eager);
}

// Root mean square, relative to the exact values'.
inline double error(const at::Tensor& found, const at::Tensor& expected) {
  const double difference = (found.to(at::kDouble) - expected).square().mean().sqrt().item<double>();
  const double size = expected.square().mean().sqrt().item<double>();
  return size > 0 ? difference / size : difference;
}

// Largest error that is allowed where the plain version's is `plain`: twice that; where it happens to be exact, nearly:
// a hundredth of the dtype's precision, or ten units of float32.
inline double allowed(double plain, at::ScalarType dtype) {
  return std::max(2 * plain, dtype == at::kBFloat16 ? 4e-5 : dtype == at::kHalf ? 1e-5 : 1.2e-6);
}

}  // namespace attention_cases
