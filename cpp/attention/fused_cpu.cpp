#include "attention/fused_cpu.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "attention/layout.h"
#include "attention/rows.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "runtime/record.h"
#include "runtime/scratch.h"

namespace swap {
namespace {

using cpu::Problem;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// An item has at least this many query rows, so that packing K and V for it does not count,
constexpr int64_t kLeastRows = 512;
// and there are about this many items, so that many threads have work.
constexpr int64_t kItems = 64;

struct Inputs {
  at::Tensor q, k, v, k_ref, weights;
  bool causal;

  Inputs(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& k_ref,
         const at::Tensor& weights, bool causal)
      : q(dense_rows(q)), k(dense_rows(k)), v(dense_rows(v)), weights(weights), causal(causal) {
    if (k_ref.defined()) this->k_ref = dense_rows(k_ref);
    if (weights.defined()) this->weights = weights.contiguous();
  }

  const char* name() const { return causal ? "swap::causal_attention" : "swap::cross_attention"; }

  Problem problem() const {
    Problem p;
    p.batch = q.size(0), p.heads = q.size(1), p.queries = q.size(2), p.width = q.size(3), p.tokens = k.size(2);
    const int64_t most = std::max<int64_t>(1, p.queries / kLeastRows);
    p.chunks = std::clamp<int64_t>(cpu::divide_up(kItems, p.batch * p.heads), 1, most);
    p.chunk_rows = cpu::round_up(cpu::divide_up(p.queries, p.chunks), 64);
    p.chunks = cpu::divide_up(p.queries, p.chunk_rows);
    const double scale = 1 / std::sqrt(static_cast<double>(p.width)), slope = scale / std::log(2.0);
    p.scale = static_cast<float>(scale);
    p.slope = static_cast<float>(slope);
    p.slope_rest = static_cast<float>(slope - static_cast<double>(p.slope));
    p.causal = causal;
    p.q = rows_of(q), p.k = rows_of(k), p.v = rows_of(v);
    if (k_ref.defined()) p.k_ref = rows_of(k_ref);
    if (weights.defined()) p.weights = weights.const_data_ptr<float>();
    return p;
  }
};

int64_t items(const Problem& p) { return p.batch * p.heads * p.chunks; }

void run(const Problem& p, const cpu::Kernel& kernel, bool backward) {
  const int64_t size = cpu::round_up(static_cast<int64_t>(kernel.workspace(p, backward)), 64);
  const Scratch<char> memory(cpu::worker_count(items(p)) * size);
  cpu::run_parallel(items(p), [&](int64_t item, int64_t worker) {
    (backward ? kernel.backward : kernel.forward)(p, item, memory.data() + worker * size);
  });
}

SplitAttentionResult compute_forward(const cpu::Kernel& kernel, const Inputs& inputs) {
  SWAP_RECORD(inputs.name(), inputs.q, inputs.k);
  Problem p = inputs.problem();
  SplitAttentionResult result{rows_with_heads(inputs.q), {}};
  p.out = mutable_rows_of(result.out);
  const bool wanted = inputs.k_ref.defined();
  const Scratch<double> losses(wanted ? items(p) : 0);
  p.loss = losses.data();
  run(p, kernel, false);
  if (!wanted) return result;
  result.loss = fresh(inputs.q, {p.batch}, at::kFloat);
  for (int64_t b = 0; b < p.batch; ++b) {
    double sum = 0;
    for (int64_t i = 0; i < p.heads * p.chunks; ++i) sum += p.loss[b * p.heads * p.chunks + i];
    result.loss.mutable_data_ptr<float>()[b] = static_cast<float>(sum / static_cast<double>(p.heads));
  }
  return result;
}

AttentionMaps compute_maps(const cpu::Kernel& kernel, const Inputs& inputs) {
  Problem p = inputs.problem();
  AttentionMaps result{rows_with_heads(inputs.q), fresh(inputs.q, {p.batch, p.heads, p.queries, p.tokens}, at::kFloat)};
  p.out = mutable_rows_of(result.out);
  p.maps = result.maps.mutable_data_ptr<float>();
  run(p, kernel, false);
  return result;
}

void compute_backward(const cpu::Kernel& kernel, const Inputs& inputs, const at::Tensor& dout, const at::Tensor& dloss,
                      const at::Tensor& dq, const at::Tensor& dk, const at::Tensor& dv) {
  SWAP_RECORD(inputs.name(), inputs.q, inputs.k);
  Problem p = inputs.problem();
  const auto g = dout.defined() ? dense_rows(dout) : at::zeros({1}, inputs.q.options()).expand(inputs.q.sizes());
  const auto out_gradient = dense_rows(g);
  p.dout = rows_of(out_gradient);
  at::Tensor loss_gradient;
  if (dloss.defined()) {
    loss_gradient = dloss.to(at::kFloat).contiguous();
    p.dloss = loss_gradient.const_data_ptr<float>();
  } else {
    p.k_ref = {};
  }
  if (dq.defined()) p.dq = mutable_rows_of(dq);
  const bool summed = dk.defined() && p.chunks > 1;
  const Scratch<float> sums(summed ? items(p) * cpu::dkv_size(p) : 0);
  if (dk.defined()) {
    p.dk = mutable_rows_of(dk), p.dv = mutable_rows_of(dv);
    p.dkv = sums.data();
  }
  run(p, kernel, true);
  if (!summed) return;
  cpu::run_parallel(p.batch * p.heads, [&](int64_t head, int64_t) { kernel.finish_backward(p, head); });
}

struct FusedSplitAttention : torch::autograd::Function<FusedSplitAttention> {
  static variable_list forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const std::optional<at::Tensor>& k_ref, const std::optional<at::Tensor>& weights,
                               const cpu::Kernel* kernel, bool causal) {
    context->set_materialize_grads(false);
    context->saved_data["causal"] = causal;
    context->saved_data["kernel"] = reinterpret_cast<int64_t>(kernel);
    const auto reference = k_ref.value_or(at::Tensor()), by_token = weights.value_or(at::Tensor());
    context->save_for_backward({q, k, v, reference, by_token});
    const auto result = compute_forward(*kernel, Inputs(q, k, v, reference, by_token, causal));
    if (!result.loss.defined()) return {result.out};
    return {result.out, result.loss};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto& kernel = *reinterpret_cast<const cpu::Kernel*>(context->saved_data["kernel"].toInt());
    const Inputs inputs(saved[0], saved[1], saved[2], saved[3], saved[4], context->saved_data["causal"].toBool());
    const bool for_kv = context->needs_input_grad(1) || context->needs_input_grad(2);
    const auto wanted = [](bool it_is, const at::Tensor& like) { return it_is ? rows_with_heads(like) : at::Tensor(); };
    const auto dq = wanted(context->needs_input_grad(0), inputs.q);
    const auto dk = wanted(for_kv, inputs.k), dv = wanted(for_kv, inputs.v);
    compute_backward(kernel, inputs, gradients[0], gradients.size() > 1 ? gradients[1] : at::Tensor(), dq, dk, dv);
    return {dq, dk, dv, {}, {}, {}, {}};
  }
};

}  // namespace

const cpu::Kernel* fused_cpu_kernel(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const at::Tensor& k_ref, const at::Tensor& weights) {
  const auto dtype = q.scalar_type();
  if (dtype != at::kFloat && dtype != at::kBFloat16) return nullptr;
  for (const auto* x : {&q, &k, &v, &k_ref}) {
    if (!x->defined()) continue;
    if (!x->device().is_cpu() || x->layout() != at::kStrided || x->scalar_type() != dtype || x->dim() != 4) {
      return nullptr;
    }
    if (x->size(1) != q.size(1) || x->size(3) != q.size(3) || x->numel() == 0) return nullptr;
  }
  const int64_t tokens = k.size(2);
  if (tokens > cpu::kMaxTokens || q.size(3) > cpu::kMaxWidth || k.size(0) != q.size(0) || v.sizes() != k.sizes()) {
    return nullptr;
  }
  if (k_ref.defined() && (k_ref.size(2) != tokens || (k_ref.size(0) != 1 && k_ref.size(0) != q.size(0)))) {
    return nullptr;
  }
  if (weights.defined() && (!weights.device().is_cpu() || weights.scalar_type() != at::kFloat || weights.dim() != 1 ||
                            weights.size(0) != tokens || weights.requires_grad())) {
    return nullptr;
  }
  const auto& found = cpu::kernels(dtype == at::kBFloat16);
  return found.empty() ? nullptr : found.front();
}

SplitAttentionResult split_attention_fused_cpu(const cpu::Kernel& kernel, const at::Tensor& q, const at::Tensor& k,
                                               const at::Tensor& v, const at::Tensor& k_ref, const at::Tensor& weights,
                                               bool causal) {
  TORCH_CHECK(!causal || q.size(2) == k.size(2), "causal attention of ", q.size(2), " queries to ", k.size(2),
              " tokens");
  if (!in_graph(q) && !in_graph(k) && !in_graph(v))
    return compute_forward(kernel, Inputs(q, k, v, k_ref, weights, causal));
  const auto optional = [](const at::Tensor& x) { return x.defined() ? std::optional(x) : std::nullopt; };
  const auto results = FusedSplitAttention::apply(q, k, v, optional(k_ref), optional(weights), &kernel, causal);
  return {results[0], results.size() > 1 ? results[1] : at::Tensor()};
}

void split_attention_gradient_fused_cpu(const cpu::Kernel& kernel, const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v, const at::Tensor& k_ref, const at::Tensor& weights,
                                        bool causal, const at::Tensor& dout, const at::Tensor& dloss,
                                        const at::Tensor& dq, const at::Tensor& dk, const at::Tensor& dv) {
  compute_backward(kernel, Inputs(q, k, v, k_ref, weights, causal), dout, dloss, dq, dk, dv);
}

AttentionMaps attention_maps_fused_cpu(const cpu::Kernel& kernel, const at::Tensor& q, const at::Tensor& k,
                                       const at::Tensor& v) {
  return compute_maps(kernel, Inputs(q, k, v, {}, {}, false));
}

}  // namespace swap
