// AdamW without weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019), in fp32, with a state that can be saved.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <vector>

namespace swap {

class Adam {
 public:
  explicit Adam(const std::vector<at::Tensor>& parameters) {
    for (const auto& p : parameters) {
      first.push_back(at::zeros_like(p, at::MemoryFormat::Contiguous).detach());
      second.push_back(at::zeros_like(p, at::MemoryFormat::Contiguous).detach());
    }
  }

  // `step` counts from 1.
  void update(const std::vector<at::Tensor>& parameters, const std::vector<at::Tensor>& gradients, double rate,
              int64_t step) {
    c10::NoGradGuard no_grad;
    const double correction1 = 1 - std::pow(kBeta1, step), correction2 = 1 - std::pow(kBeta2, step);
    for (size_t i = 0; i < parameters.size(); ++i) {
      const auto& g = gradients[i];
      if (!g.defined()) continue;
      first[i].mul_(kBeta1).add_(g, 1 - kBeta1);
      second[i].mul_(kBeta2).addcmul_(g, g, 1 - kBeta2);
      const auto scale = second[i].sqrt().div_(std::sqrt(correction2)).add_(kEps);
      parameters[i].addcdiv_(first[i], scale, -rate / correction1);
    }
  }

  std::vector<at::Tensor> first, second;  // moments

 private:
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8;
};

}  // namespace swap
