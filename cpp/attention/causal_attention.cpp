#include "attention/causal_attention.h"

#include <cmath>
#include <limits>

#include "attention/fused_cpu.h"
#include "attention/layout.h"

namespace swap {
namespace {

const cpu::Kernel* find_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return plain_attention_wanted() ? nullptr : fused_cpu_kernel(q, k, v, {}, {});
}

}  // namespace

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const auto* kernel = find_kernel(q, k, v);
  if (!kernel) return causal_attention_eager(q, k, v);
  return split_attention_fused_cpu(*kernel, q, k, v, {}, {}, /*causal=*/true).out;
}

at::Tensor causal_attention(const at::Tensor& qkv, int64_t heads, Steps* steps) {
  check_no_graph(qkv);
  const auto [q, k, v] = split_sides(qkv, heads);
  const auto* kernel = find_kernel(q, k, v);
  if (!kernel) {
    return differentiate(qkv, steps,
                         [&](const at::Tensor& input) { return attend_sides(input, heads, causal_attention_eager); });
  }
  if (noted(steps)) {
    steps->then([=](const at::Tensor& dy) {
      const auto gradient = fresh(qkv, qkv.sizes());
      const auto [q, k, v] = split_sides(qkv, heads);
      const auto [dq, dk, dv] = split_sides(gradient, heads);
      split_attention_gradient_fused_cpu(*kernel, q, k, v, {}, {}, /*causal=*/true, split_heads(dy, heads), {}, dq, dk,
                                         dv);
      return gradient;
    });
  }
  return join_heads(split_attention_fused_cpu(*kernel, q, k, v, {}, {}, /*causal=*/true).out);
}

at::Tensor causal_attention_eager(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t L = q.size(2);
  const auto scaled = q.to(at::kFloat) / std::sqrt(static_cast<double>(q.size(3)));
  const auto unseen = at::full({L, L}, -std::numeric_limits<double>::infinity(), scaled.options()).triu_(1);
  const auto map = at::softmax(at::matmul(scaled, k.to(at::kFloat).transpose(2, 3)) + unseen, 3);
  return at::matmul(map, v.to(at::kFloat)).to(v.scalar_type());
}

}  // namespace swap
