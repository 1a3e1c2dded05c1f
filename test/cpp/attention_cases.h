// The cases of the op, one list for every make of it, and what a make must hold in each: against the definition in
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

namespace attention_cases {

using swap::SplitAttentionResult;

inline at::Tensor random(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::TensorOptions().dtype(at::kFloat));
}

struct Shape {
  int64_t batch, heads, queries, tokens, width;
  double gain = 1;  // of Q
  bool reference = true, weighted = true, per_sample = false;
  double dout = 1, dloss = 1;
};

inline const std::vector<Shape> kShapes = {
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
    {1, 1, 65, 80, 160},
    {2, 1, 17, 2, 160},
    {1, 2, 33, 76, 64},
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
