#include "attention/causal_attention.h"

#include <cmath>
#include <limits>

#include "attention/fused_cpu.h"

namespace swap {

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const auto* kernel = plain_attention_wanted() ? nullptr : fused_cpu_kernel(q, k, v, {}, {});
  if (!kernel) return causal_attention_eager(q, k, v);
  return split_attention_fused_cpu(*kernel, q, k, v, {}, {}, /*causal=*/true).out;
}

at::Tensor causal_attention_eager(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t L = q.size(2);
  const auto scaled = q.to(at::kFloat) / std::sqrt(static_cast<double>(q.size(3)));
  const auto unseen = at::full({L, L}, -std::numeric_limits<double>::infinity(), scaled.options()).triu_(1);
  const auto map = at::softmax(at::matmul(scaled, k.to(at::kFloat).transpose(2, 3)) + unseen, 3);
  return at::matmul(map, v.to(at::kFloat)).to(v.scalar_type());
}

}  // namespace swap
