#include "attention/split_attention.h"

#include <cmath>
#include <cstdlib>

#include "attention/fused_cpu.h"
#include "attention/fused_cuda.h"
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
