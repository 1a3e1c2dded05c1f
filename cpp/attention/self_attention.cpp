#include "attention/self_attention.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "attention/layout.h"
#include "attention/rows.h"
#include "attention/split_attention.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "runtime/record.h"

namespace swap {
namespace {

using cpu::FlashKernel;
using cpu::FlashProblem;

// About so many items, so that many threads have work. Back each has a sum for dQ of its own, so fewer.
constexpr int64_t kForwardItems = 64, kBackwardItems = 16;

FlashProblem make_problem(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  FlashProblem p;
  p.batch = q.size(0), p.heads = q.size(1), p.queries = q.size(2), p.width = q.size(3), p.keys = k.size(2);
  const double scale = 1 / std::sqrt(static_cast<double>(p.width)), slope = scale / std::log(2.0);
  p.scale = static_cast<float>(scale);
  p.slope = static_cast<float>(slope);
  p.slope_rest = static_cast<float>(slope - static_cast<double>(p.slope));
  p.q = rows_of(q), p.k = rows_of(k), p.v = rows_of(v);
  return p;
}

// Cuts each head's blocks into chunks, about `items` in all.
void cut(FlashProblem& p, int64_t blocks, int64_t items) {
  const int64_t heads = p.batch * p.heads;
  p.chunks = std::clamp<int64_t>(cpu::divide_up(items, heads), 1, blocks);
  p.chunk_blocks = cpu::divide_up(blocks, p.chunks);
  p.chunks = cpu::divide_up(blocks, p.chunk_blocks);
}

using Step = void (*)(const FlashProblem&, int64_t, void*);

// Runs steps of a pass one after another, each over its count of heads or items.
void run(FlashProblem& p, const FlashKernel& kernel, bool backward,
         std::initializer_list<std::pair<Step, int64_t>> steps) {
  p.head_bytes = kernel.head_bytes(p, backward);
  const auto prepared = at::empty({p.batch * p.heads * p.head_bytes}, at::kByte);
  p.prepared = static_cast<char*>(prepared.mutable_data_ptr());
  const int64_t size = kernel.workspace(p, backward);
  int64_t most = 1;
  for (const auto& [step, count] : steps) most = std::max(most, cpu::worker_count(count));
  const auto memory = at::empty({most * size}, at::kByte);
  auto* const base = memory.mutable_data_ptr<uint8_t>();
  for (const auto& [step, count] : steps) {
    cpu::run_parallel(count, [&, run = step](int64_t index, int64_t worker) { run(p, index, base + worker * size); });
  }
}

// `lse` [B H, N rounded up] is filled where it is defined.
at::Tensor compute_forward(const FlashKernel& kernel, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           bool keep, at::Tensor& lse) {
  SWAP_RECORD("swap::self_attention", q, k);
  auto p = make_problem(q, k, v);
  const auto out = rows_with_heads(q);
  p.out = mutable_rows_of(out);
  if (keep) {
    lse = at::empty({p.batch * p.heads, cpu::query_blocks(p) * cpu::kBlock}, at::kFloat);
    p.lse = lse.mutable_data_ptr<float>();
  }
  cut(p, cpu::query_blocks(p), kForwardItems);
  const int64_t heads = p.batch * p.heads;
  run(p, kernel, false, {{kernel.prepare_forward, heads}, {kernel.forward, heads * p.chunks}});
  return out;
}

// Into `gradient`: dQ, dK, dV.
void compute_backward(const FlashKernel& kernel, const std::array<at::Tensor, 3>& qkv, const at::Tensor& out,
                      const at::Tensor& lse, const at::Tensor& gradient_of_out,
                      const std::array<at::Tensor, 3>& gradient) {
  SWAP_RECORD("swap::self_attention", qkv[0], qkv[1]);
  auto p = make_problem(qkv[0], qkv[1], qkv[2]);
  const auto dout = dense_rows(gradient_of_out);
  p.o = rows_of(out), p.dout = rows_of(dout);
  p.lse = lse.mutable_data_ptr<float>();
  p.dq = mutable_rows_of(gradient[0]), p.dk = mutable_rows_of(gradient[1]), p.dv = mutable_rows_of(gradient[2]);
  cut(p, cpu::key_blocks(p), kBackwardItems);
  const int64_t heads = p.batch * p.heads;
  const auto sums = at::empty({heads * p.chunks, cpu::dq_size(p)}, at::kFloat);
  p.dq_sums = sums.mutable_data_ptr<float>();
  run(p, kernel, true,
      {{kernel.prepare_backward, heads}, {kernel.backward, heads * p.chunks}, {kernel.finish_backward, heads}});
}

struct FlashAttention : torch::autograd::Function<FlashAttention> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const FlashKernel* kernel) {
    const auto rows_q = dense_rows(q), rows_k = dense_rows(k), rows_v = dense_rows(v);
    at::Tensor lse;
    const auto out = compute_forward(*kernel, rows_q, rows_k, rows_v, true, lse);
    context->saved_data["kernel"] = reinterpret_cast<int64_t>(kernel);
    context->save_for_backward({rows_q, rows_k, rows_v, out, lse});
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto& kernel = *reinterpret_cast<const FlashKernel*>(context->saved_data["kernel"].toInt());
    const std::array<at::Tensor, 3> gradient{rows_with_heads(saved[0]), rows_with_heads(saved[1]),
                                             rows_with_heads(saved[2])};
    compute_backward(kernel, {saved[0], saved[1], saved[2]}, saved[3], saved[4], gradients[0], gradient);
    return {gradient[0], gradient[1], gradient[2], at::Tensor()};
  }
};

}  // namespace

const FlashKernel* flash_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const auto dtype = q.scalar_type();
  if ((dtype != at::kFloat && dtype != at::kBFloat16) || plain_self_attention_wanted()) return nullptr;
  for (const auto* x : {&q, &k, &v}) {
    if (!x->device().is_cpu() || x->layout() != at::kStrided || x->scalar_type() != dtype || x->dim() != 4 ||
        x->size(0) != q.size(0) || x->size(1) != q.size(1) || x->size(3) != q.size(3) || x->numel() == 0) {
      return nullptr;
    }
  }
  if (k.size(2) != v.size(2)) return nullptr;
  const auto& found = cpu::flash_kernels(dtype == at::kBFloat16);
  return found.empty() || q.size(3) > found.front()->best_width ? nullptr : found.front();
}

at::Tensor self_attention_flash(const FlashKernel& kernel, const at::Tensor& q, const at::Tensor& k,
                                const at::Tensor& v) {
  if (c10::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad())) {
    return FlashAttention::apply(q, k, v, &kernel);
  }
  at::Tensor lse;
  return compute_forward(kernel, dense_rows(q), dense_rows(k), dense_rows(v), false, lse);
}

at::Tensor self_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const auto* kernel = flash_kernel(q, k, v);
  return kernel ? self_attention_flash(*kernel, q, k, v) : at::scaled_dot_product_attention(q, k, v);
}

at::Tensor self_attention(const at::Tensor& qkv, int64_t heads, Steps* steps) {
  const auto plain = [heads](const at::Tensor& input) {
    const auto sides = input.chunk(3, -1);
    return join_heads(
        self_attention(split_heads(sides[0], heads), split_heads(sides[1], heads), split_heads(sides[2], heads)));
  };
  if (!noted(steps)) return plain(qkv);
  const auto sides = split_sides(qkv, heads);
  const auto* kernel = flash_kernel(sides[0], sides[1], sides[2]);
  if (!kernel) return steps->differentiate(qkv, plain);
  at::Tensor lse;
  const auto out = compute_forward(*kernel, sides[0], sides[1], sides[2], true, lse);
  steps->then([=](const at::Tensor& dy) {
    const auto gradient = at::empty_like(qkv);
    compute_backward(*kernel, split_sides(qkv, heads), out, lse, split_heads(dy, heads), split_sides(gradient, heads));
    return gradient;
  });
  return join_heads(out);
}

}  // namespace swap
