// Between the engine's tensors and the plain structs of engine.h.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "engine.h"

namespace swap {

// How often to_host() was asked for a tensor of the meta device: what a dry run would have waited for.
inline std::atomic<int64_t> dry_waits{0};

// What the host looks at. All values that leave the device go through here, for each waits for the GPU. The meta device
// has none: zeros, so that a job can run dry there.
inline at::Tensor to_host(const at::Tensor& tensor) {
  if (tensor.is_meta()) {
    ++dry_waits;
    return at::zeros(tensor.sizes(), tensor.options().device(at::kCPU));
  }
  return tensor.to(at::kCPU);
}

// From the host to where it is computed. The driver has taken ordinary memory over when it returns, and the stream
// keeps the order. Without `non_blocking` LibTorch would always wait for all that is queued; so the driver may for
// large ones.
inline at::Tensor to_device(const at::Tensor& tensor, at::Device device) {
  return tensor.to(device, tensor.scalar_type(), /*non_blocking=*/true);
}

// Whether one of them is infinite or none.
inline bool has_nan(const float* values, int64_t n) {
  constexpr uint32_t kExponent = 0x7f800000;  // all ones in such a number
  uint32_t found = 0;
  for (int64_t i = 0; i < n; ++i) found |= (std::bit_cast<uint32_t>(values[i]) & kExponent) == kExponent ? 1 : 0;
  return found != 0;
}

// Whether a value of one of them is infinite or none.
inline bool has_nan(at::TensorList tensors) {
  std::vector<at::Tensor> ends;
  for (const auto& tensor : tensors) {
    if (tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.is_contiguous()) {
      if (has_nan(tensor.const_data_ptr<float>(), tensor.numel())) return true;
      continue;
    }
    // Then the least or the greatest is.
    const auto [least, greatest] = at::aminmax(tensor.detach());
    ends.insert(ends.end(), {least, greatest});
  }
  if (ends.empty()) return false;
  const auto values = to_host(at::stack(ends).to(at::kFloat));
  return has_nan(values.const_data_ptr<float>(), values.numel());
}

inline NamedTensor to_named(std::string name, const at::Tensor& tensor) {
  const auto plain = to_host(tensor.detach().to(at::kFloat)).contiguous();
  NamedTensor result;
  result.name = std::move(name);
  result.shape.assign(plain.sizes().begin(), plain.sizes().end());
  result.data.assign(plain.const_data_ptr<float>(), plain.const_data_ptr<float>() + plain.numel());
  return result;
}

// A copy; the caller has checked that the data fill the shape.
inline at::Tensor to_tensor(const NamedTensor& tensor) {
  auto result = at::empty(tensor.shape, at::TensorOptions().dtype(at::kFloat));
  TORCH_CHECK(result.numel() == static_cast<int64_t>(tensor.data.size()), "tensor '", tensor.name, "' has ",
              tensor.data.size(), " values for the shape ", tensor.shape);
  if (!tensor.data.empty())
    std::memcpy(result.data_ptr<float>(), tensor.data.data(), tensor.data.size() * sizeof(float));
  return result;
}

// RGB bytes -> [1, 3, H, W] in -1..1
inline at::Tensor to_tensor(const Image& image) {
  auto bytes = at::empty({image.height, image.width, 3}, at::TensorOptions().dtype(at::kByte));
  std::memcpy(bytes.data_ptr<uint8_t>(), image.data.data(), image.data.size());
  return (bytes.to(at::kFloat) / 127.5 - 1).permute({2, 0, 1}).unsqueeze(0).contiguous();
}

// [3, H, W] in -1..1 -> RGB bytes, rounded half to even as numpy does
inline Image to_image(const at::Tensor& tensor) {
  const auto bytes =
      to_host(((tensor / 2 + 0.5).clamp(0, 1) * 255).round().to(at::kByte)).permute({1, 2, 0}).contiguous();
  Image image;
  image.height = bytes.size(0);
  image.width = bytes.size(1);
  image.data.assign(bytes.const_data_ptr<uint8_t>(), bytes.const_data_ptr<uint8_t>() + bytes.numel());
  return image;
}

}  // namespace swap
