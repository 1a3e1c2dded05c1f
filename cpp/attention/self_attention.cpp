#include "attention/self_attention.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "attention/layout.h"
#include "attention/rows.h"
#include "attention/split_attention.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "runtime/record.h"
#include "runtime/scratch.h"

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
  const Scratch<char> prepared(p.batch * p.heads * p.head_bytes);
  p.prepared = prepared.data();
  const int64_t size = kernel.workspace(p, backward);
  int64_t most = 1;
  for (const auto& [step, count] : steps) most = std::max(most, cpu::worker_count(count));
  const Scratch<char> memory(most * size);
  for (const auto& [step, count] : steps) {
    cpu::run_parallel(count,
                      [&, run = step](int64_t index, int64_t worker) { run(p, index, memory.data() + worker * size); });
  }
}

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

Flashed self_attention_flash(const FlashKernel& kernel, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             bool keep) {
  SWAP_RECORD("swap::self_attention", q, k);
  Flashed result{dense_rows(q), dense_rows(k), dense_rows(v), rows_with_heads(q), {}};
  auto p = make_problem(result.q, result.k, result.v);
  p.out = mutable_rows_of(result.out);
  if (keep) {
    result.lse = fresh(q, {p.batch * p.heads, cpu::query_blocks(p) * cpu::kBlock}, at::kFloat);
    p.lse = result.lse.mutable_data_ptr<float>();
  }
  cut(p, cpu::query_blocks(p), kForwardItems);
  const int64_t heads = p.batch * p.heads;
  run(p, kernel, false, {{kernel.prepare_forward, heads}, {kernel.forward, heads * p.chunks}});
  return result;
}

void self_attention_flash_gradient(const FlashKernel& kernel, const Flashed& kept, const at::Tensor& dout,
                                   const std::array<at::Tensor, 3>& gradient) {
  SWAP_RECORD("swap::self_attention", kept.q, kept.k);
  auto p = make_problem(kept.q, kept.k, kept.v);
  const auto dense = dense_rows(dout);
  p.o = rows_of(kept.out), p.dout = rows_of(dense);
  p.lse = kept.lse.mutable_data_ptr<float>();
  p.dq = mutable_rows_of(gradient[0]), p.dk = mutable_rows_of(gradient[1]), p.dv = mutable_rows_of(gradient[2]);
  cut(p, cpu::key_blocks(p), kBackwardItems);
  const int64_t heads = p.batch * p.heads;
  const Scratch<float> sums(heads * p.chunks * cpu::dq_size(p));
  p.dq_sums = sums.data();
  run(p, kernel, true,
      {{kernel.prepare_backward, heads}, {kernel.backward, heads * p.chunks}, {kernel.finish_backward, heads}});
}

at::Tensor self_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const auto* kernel = flash_kernel(q, k, v);
  return kernel ? self_attention_flash(*kernel, q, k, v, false).out : at::scaled_dot_product_attention(q, k, v);
}

at::Tensor self_attention(const at::Tensor& qkv, int64_t heads, Steps* steps) {
  check_no_graph(qkv);
  const auto sides = split_sides(qkv, heads);
  const auto* kernel = flash_kernel(sides[0], sides[1], sides[2]);
  if (!kernel) {
    const auto plain = [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
      return at::scaled_dot_product_attention(q, k, v);
    };
    return differentiate(qkv, steps, [&](const at::Tensor& input) { return attend_sides(input, heads, plain); });
  }
  const auto kept = self_attention_flash(*kernel, sides[0], sides[1], sides[2], noted(steps));
  if (noted(steps)) {
    steps->then([=](const at::Tensor& dy) {
      const auto gradient = fresh(qkv, qkv.sizes());
      self_attention_flash_gradient(*kernel, kept, split_heads(dy, heads), split_sides(gradient, heads));
      return gradient;
    });
  }
  return join_heads(kept.out);
}

}  // namespace swap
