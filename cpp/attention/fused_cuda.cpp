#include "attention/fused_cuda.h"

#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <optional>

#include "../../cuda/launch.h"
#include "attention/layout.h"

namespace swap {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kAlignment = 8;  // elements: 16 bytes

// The stride of a dimension, which says nothing where there is one step only.
int64_t step_of(const at::Tensor& x, int64_t dim) { return x.size(dim) == 1 ? 0 : x.stride(dim); }

bool is_aligned(const at::Tensor& x) {
  if (x.stride(3) != 1) return false;
  for (int64_t dim = 0; dim < 3; ++dim) {
    if (step_of(x, dim) % kAlignment != 0) return false;
  }
  return x.is_meta() || reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

// As the kernels read it: whole chunks of 16 bytes. Heads that lie side by side in a row need no copy.
at::Tensor aligned(const at::Tensor& x) { return is_aligned(x) ? x : x.clone(at::MemoryFormat::Contiguous); }

cuda::Rows rows_of(const at::Tensor& x) {
  return {x.is_meta() ? nullptr : x.const_data_ptr(), step_of(x, 0), step_of(x, 1), step_of(x, 2)};
}

cuda::MutableRows mutable_rows_of(const at::Tensor& x) {
  return {x.is_meta() ? nullptr : x.mutable_data_ptr(), step_of(x, 0), step_of(x, 1), step_of(x, 2)};
}

const float* floats(const at::Tensor& x) { return x.is_meta() ? nullptr : x.const_data_ptr<float>(); }
float* mutable_floats(const at::Tensor& x) { return x.is_meta() ? nullptr : x.mutable_data_ptr<float>(); }

struct Inputs {
  at::Tensor q, k, v, k_ref, weights;

  Inputs(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& k_ref,
         const at::Tensor& weights)
      : q(aligned(q)), k(aligned(k)), v(aligned(v)) {
    if (k_ref.defined()) this->k_ref = aligned(k_ref);
    if (weights.defined()) this->weights = weights.contiguous();
  }

  cuda::Shape shape() const {
    const auto size = [](const at::Tensor& x, int64_t dim) { return static_cast<int>(x.size(dim)); };
    const auto element = q.scalar_type() == at::kBFloat16 ? cuda::Element::bf16 : cuda::Element::fp16;
    const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(q.size(3))));
    return {size(q, 0), size(q, 1), size(q, 2), size(k, 2), size(q, 3), element, scale};
  }

  at::Tensor memory(at::IntArrayRef shape) const { return at::empty(shape, q.options().dtype(at::kFloat)); }

  // Goes back to LibTorch's allocator when the launch has returned: whoever gets it next waits on the same stream.
  at::Tensor workspace(size_t bytes) const { return memory({static_cast<int64_t>(bytes / sizeof(float))}); }
};

cuda::ForwardParams forward_params(const Inputs& inputs, const at::Tensor& out) {
  cuda::ForwardParams p;
  p.shape = inputs.shape();
  p.q = rows_of(inputs.q), p.k = rows_of(inputs.k), p.v = rows_of(inputs.v);
  p.out = mutable_rows_of(out);
  return p;
}

void run(const CudaLauncher* launcher, const Inputs& inputs, cuda::ForwardParams& p, cuda::Form form) {
  if (inputs.q.is_meta()) return;
  const auto workspace = inputs.workspace(launcher->workspace(p.shape, form));
  p.workspace = mutable_floats(workspace);
  launcher->forward(p, form, inputs.q.device());
}

SplitAttentionResult compute_forward(const CudaLauncher* launcher, const Inputs& inputs) {
  SplitAttentionResult result{rows_with_heads(inputs.q), {}};
  auto p = forward_params(inputs, result.out);
  if (inputs.k_ref.defined()) {
    result.loss = inputs.memory({inputs.q.size(0)});
    p.k_ref = rows_of(inputs.k_ref);
    if (inputs.weights.defined()) p.weights = floats(inputs.weights);
    p.loss = mutable_floats(result.loss);
  }
  run(launcher, inputs, p, inputs.k_ref.defined() ? cuda::Form::loss : cuda::Form::plain);
  return result;
}

struct Gradients {
  at::Tensor q, k, v;
};

Gradients compute_backward(const CudaLauncher* launcher, const Inputs& inputs, const at::Tensor& dout,
                           const at::Tensor& dloss) {
  const Gradients result{rows_with_heads(inputs.q), rows_with_heads(inputs.k), rows_with_heads(inputs.v)};
  cuda::BackwardParams p;
  p.shape = inputs.shape();
  p.q = rows_of(inputs.q), p.k = rows_of(inputs.k), p.v = rows_of(inputs.v);
  p.dq = mutable_rows_of(result.q), p.dk = mutable_rows_of(result.k), p.dv = mutable_rows_of(result.v);
  at::Tensor out_gradient, loss_gradient;
  if (dout.defined()) {
    out_gradient = aligned(dout);
    p.dout = rows_of(out_gradient);
  }
  if (dloss.defined()) {
    loss_gradient = dloss.to(at::kFloat).contiguous();
    p.dloss = floats(loss_gradient);
    p.k_ref = rows_of(inputs.k_ref);
    if (inputs.weights.defined()) p.weights = floats(inputs.weights);
  }
  if (inputs.q.is_meta()) return result;
  const auto workspace = inputs.workspace(launcher->workspace_backward(p.shape));
  p.workspace = mutable_floats(workspace);
  launcher->backward(p, inputs.q.device());
  return result;
}

struct FusedOnCuda : torch::autograd::Function<FusedOnCuda> {
  static variable_list forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const std::optional<at::Tensor>& k_ref, const std::optional<at::Tensor>& weights,
                               const CudaLauncher* launcher) {
    context->set_materialize_grads(false);
    context->saved_data["launcher"] = reinterpret_cast<int64_t>(launcher);
    const auto reference = k_ref.value_or(at::Tensor()), by_token = weights.value_or(at::Tensor());
    context->save_for_backward({q, k, v, reference, by_token});
    const auto result = compute_forward(launcher, Inputs(q, k, v, reference, by_token));
    if (!result.loss.defined()) return {result.out};
    return {result.out, result.loss};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const auto* launcher = reinterpret_cast<const CudaLauncher*>(context->saved_data["launcher"].toInt());
    const Inputs inputs(saved[0], saved[1], saved[2], saved[3], saved[4]);
    const auto dloss = gradients.size() > 1 ? gradients[1] : at::Tensor();
    const auto result = compute_backward(launcher, inputs, gradients[0], dloss);
    return {result.q, result.k, result.v, {}, {}, {}};
  }
};

}  // namespace

#if !defined(SWAP_CUDA)
const CudaLauncher* cuda_launcher() { return nullptr; }
#endif

bool is_cuda_element(at::ScalarType dtype) { return dtype == at::kBFloat16 || dtype == at::kHalf; }

bool fused_cuda_shapes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& k_ref,
                       const at::Tensor& weights) {
  if (!is_cuda_element(q.scalar_type()) || q.dim() != 4) return false;
  for (const auto* x : {&q, &k, &v, &k_ref}) {
    if (!x->defined()) continue;
    if (x->device() != q.device() || x->layout() != at::kStrided || x->scalar_type() != q.scalar_type()) return false;
    if (x->dim() != 4 || x->size(1) != q.size(1) || x->size(3) != q.size(3) || x->numel() == 0) return false;
  }
  if (!cuda::supported(q.size(3), k.size(2)) || q.size(2) > cuda::kMaxRows) return false;
  if (q.size(0) * q.size(1) > cuda::kMaxHeads || k.size(0) != q.size(0) || v.sizes() != k.sizes()) return false;
  if (k_ref.defined() && (k_ref.size(2) != k.size(2) || (k_ref.size(0) != 1 && k_ref.size(0) != q.size(0)))) {
    return false;
  }
  if (!weights.defined()) return true;
  return weights.device() == q.device() && weights.scalar_type() == at::kFloat && weights.dim() == 1 &&
         weights.size(0) == k.size(2) && !weights.requires_grad();
}

bool fused_cuda_takes(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& k_ref,
                      const at::Tensor& weights) {
  if (!q.is_cuda() && !q.is_meta()) return false;
  if (q.is_cuda() && (!cuda_launcher() || !cuda_launcher()->takes(q.device()))) return false;
  return fused_cuda_shapes(q, k, v, k_ref, weights);
}

SplitAttentionResult split_attention_fused_cuda(const CudaLauncher* launcher, const at::Tensor& q, const at::Tensor& k,
                                                const at::Tensor& v, const at::Tensor& k_ref,
                                                const at::Tensor& weights) {
  const bool differentiated =
      c10::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
  if (!differentiated) return compute_forward(launcher, Inputs(q, k, v, k_ref, weights));
  const auto optional = [](const at::Tensor& x) { return x.defined() ? std::optional(x) : std::nullopt; };
  const auto results = FusedOnCuda::apply(q, k, v, optional(k_ref), optional(weights), launcher);
  return {results[0], results.size() > 1 ? results[1] : at::Tensor()};
}

AttentionMaps attention_maps_fused_cuda(const CudaLauncher* launcher, const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v) {
  const Inputs inputs(q, k, v, {}, {});
  AttentionMaps result{rows_with_heads(q), inputs.memory({q.size(0), q.size(1), q.size(2), k.size(2)})};
  auto p = forward_params(inputs, result.out);
  p.maps = mutable_floats(result.maps);
  run(launcher, inputs, p, cuda::Form::maps);
  return result;
}

}  // namespace swap
