#include "attention/split_attention.h"

#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <cstdlib>
#include <vector>

#include "attention/fused_cpu.h"
#include "attention/fused_cuda.h"
#include "attention/layout.h"
#include "cpu/kernels.h"
#include "runtime/error.h"

namespace swap {
namespace {

// softmax(q k^T / sqrt(d)) in fp32: [B,H,N,L]
at::Tensor attention_map(const at::Tensor& q, const at::Tensor& k) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
  return at::softmax(at::matmul(q * scale, k.transpose(-1, -2)), -1, at::kFloat);
}

// Empty where nothing is asked for.
const std::string& wanted() {
  static const std::string value = [] {
    const char* make = std::getenv("SWAP_ATTENTION");
    const std::string asked = make ? make : "";
    if (!asked.empty() && asked != "eager" && asked != "eager-cross") {
      throw Error("SWAP_OPTION_INVALID", "SWAP_ATTENTION is '" + asked + "' in the environment",
                  "it may be 'eager' or 'eager-cross', or not be set");
    }
    return asked;
  }();
  return value;
}

}  // namespace

bool plain_attention_wanted() { return wanted() == "eager" || wanted() == "eager-cross"; }

bool plain_self_attention_wanted() { return wanted() == "eager"; }

SplitAttentionResult split_attention_eager(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                           const at::Tensor& k_ref, const at::Tensor& weights) {
  if (!k_ref.defined()) return {at::scaled_dot_product_attention(q, k, v), {}};
  const auto map = attention_map(q, k);
  at::Tensor reference;
  {
    c10::NoGradGuard constant;
    reference = attention_map(q.detach(), k_ref);
  }
  auto squared = (map - reference).square();
  if (weights.defined()) squared = squared * weights;
  return {at::matmul(map.to(v.scalar_type()), v), squared.sum({1, 2, 3}) / static_cast<double>(q.size(1))};
}

SplitAttentionResult split_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                     const at::Tensor& k_ref, const at::Tensor& weights) {
  if (plain_attention_wanted()) return split_attention_eager(q, k, v, k_ref, weights);
  if (const auto* kernel = fused_cpu_kernel(q, k, v, k_ref, weights)) {
    return split_attention_fused_cpu(*kernel, q, k, v, k_ref, weights);
  }
  if (fused_cuda_takes(q, k, v, k_ref, weights)) {
    return split_attention_fused_cuda(cuda_launcher(), q, k, v, k_ref, weights);
  }
  return split_attention_eager(q, k, v, k_ref, weights);
}

std::pair<SplitAttentionResult, SplitAttentionGradient> split_attention_and_gradient(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& k_ref, const at::Tensor& weights) {
  const auto* kernel = plain_attention_wanted() ? nullptr : fused_cpu_kernel(q, k, v, k_ref, weights);
  if (kernel) {
    c10::NoGradGuard no_graph;
    const auto gradient = [=](const at::Tensor& dout, const at::Tensor& dloss, bool for_q) {
      const auto like = [](const at::Tensor& x, bool wanted) { return wanted ? rows_with_heads(x) : at::Tensor(); };
      const std::array<at::Tensor, 3> result{like(q, for_q), like(k, true), like(v, true)};
      split_attention_gradient_fused_cpu(*kernel, q, k, v, k_ref, weights, /*causal=*/false, dout, dloss, result[0],
                                         result[1], result[2]);
      return result;
    };
    return {split_attention_fused_cpu(*kernel, q, k, v, k_ref, weights), gradient};
  }
  const auto leaf = [](const at::Tensor& x) { return x.detach().requires_grad_(true); };
  const auto leaf_q = leaf(q), leaf_k = leaf(k), leaf_v = leaf(v);
  const at::AutoGradMode differentiated(true);
  const auto result = split_attention(leaf_q, leaf_k, leaf_v, k_ref, weights);
  const auto gradient = [=](const at::Tensor& dout, const at::Tensor& dloss, bool) {
    std::vector<at::Tensor> outputs{result.out}, gradients{dout};
    if (dloss.defined()) outputs.push_back(result.loss), gradients.push_back(dloss);
    const auto found = torch::autograd::grad(outputs, {leaf_q, leaf_k, leaf_v}, gradients);
    return std::array<at::Tensor, 3>{found[0], found[1], found[2]};
  };
  return {{result.out.detach(), result.loss.defined() ? result.loss.detach() : at::Tensor()}, gradient};
}

AttentionMaps attention_maps_eager(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  c10::NoGradGuard constant;
  const auto map = attention_map(q, k);
  return {at::matmul(map.to(v.scalar_type()), v), map};
}

AttentionMaps attention_maps(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  c10::NoGradGuard constant;
  if (plain_attention_wanted()) return attention_maps_eager(q, k, v);
  if (const auto* kernel = fused_cpu_kernel(q, k, v, {}, {})) return attention_maps_fused_cpu(*kernel, q, k, v);
  if (fused_cuda_takes(q, k, v, {}, {})) return attention_maps_fused_cuda(cuda_launcher(), q, k, v);
  return attention_maps_eager(q, k, v);
}

std::string attention_name(at::Device device, at::ScalarType dtype) {
  if (plain_attention_wanted()) return "eager";
  if (device.is_cuda()) {
    const auto* launcher = cuda_launcher();
    return launcher && launcher->takes(device) && is_cuda_element(dtype) ? "cuda" : "eager";
  }
  if (!device.is_cpu() || (dtype != at::kFloat && dtype != at::kBFloat16)) return "eager";
  const auto& found = cpu::kernels(dtype == at::kBFloat16);
  return found.empty() ? "eager" : std::string("cpu-") + found.front()->name;
}

}  // namespace swap
