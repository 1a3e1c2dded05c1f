// Standard normal noise, one CPU generator an image: a seed gives the same numbers as diffusers with a list of
// CPU generators, on any device and in any batch.
#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cstdint>
#include <vector>

#include "runtime/tensors.h"

namespace swap {

struct Noise {
  std::vector<at::Generator> generators;

  Noise() = default;
  explicit Noise(const std::vector<int64_t>& seeds) {
    for (const int64_t seed : seeds) generators.push_back(at::detail::createCPUGenerator(static_cast<uint64_t>(seed)));
  }

  // [images, ...shape_of_one] float32 on the CPU.
  at::Tensor draw(at::IntArrayRef shape_of_one) const {
    std::vector<at::Tensor> images;
    for (const at::Generator& generator : generators) {
      images.push_back(at::randn(shape_of_one, generator, at::TensorOptions().dtype(at::kFloat)));
    }
    return at::stack(images);
  }

  // One draw of `sample`'s shape [images, ...], float32 on its device.
  at::Tensor like(const at::Tensor& sample) const { return to_device(draw(sample.sizes().slice(1)), sample.device()); }
};

}  // namespace swap
