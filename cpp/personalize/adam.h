// AdamW without weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019), in fp32, with a state that can be saved.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace swap {

class Adam {
 public:
  // Takes the parameters' numbers into one tensor [n], which they are views of from now on: a step is a few operators
  // for all of them together.
  explicit Adam(const std::vector<at::Tensor>& parameters) {
    const c10::NoGradGuard no_grad;
    std::vector<at::Tensor> all;
    int64_t offset = 0;
    for (const auto& parameter : parameters) {
      all.push_back(parameter.flatten());
      parts_.push_back({offset, parameter.sizes().vec()});
      offset += parameter.numel();
    }
    values = at::cat(all);
    first = at::zeros_like(values);
    second = at::zeros_like(values);
    for (size_t i = 0; i < parameters.size(); ++i) parameters[i].set_data(part(values, i));
  }

  // What `all` [n] has of the parameter i, in its shape: a view.
  at::Tensor part(const at::Tensor& all, size_t i) const {
    const auto numel = c10::multiply_integers(parts_[i].shape);
    return all.narrow(0, parts_[i].offset, numel).view(parts_[i].shape);
  }

  // [n], of gradients in the parameters' order; 0 where there is none
  at::Tensor together(const std::vector<at::Tensor>& gradients) const {
    std::vector<at::Tensor> all;
    for (size_t i = 0; i < gradients.size(); ++i) {
      all.push_back(gradients[i].defined() ? gradients[i].flatten() : at::zeros_like(part(values, i)).flatten());
    }
    return at::cat(all);
  }

  // `step` counts from 1.
  void update(const at::Tensor& gradient, double rate, int64_t step) {
    const c10::NoGradGuard no_grad;
    const double correction1 = 1 - std::pow(kBeta1, step), correction2 = 1 - std::pow(kBeta2, step);
    for (int64_t from = 0; from < values.numel(); from += kPiece) {
      const int64_t count = std::min(kPiece, values.numel() - from);
      const auto piece = [&](const at::Tensor& all) { return all.narrow(0, from, count); };
      const auto g = piece(gradient), m = piece(first), v = piece(second);
      m.mul_(kBeta1).add_(g, 1 - kBeta1);
      v.mul_(kBeta2).addcmul_(g, g, 1 - kBeta2);
      const auto scale = v.sqrt().div_(std::sqrt(correction2)).add_(kEps);
      piece(values).addcdiv_(m, scale, -rate / correction1);
    }
  }

  at::Tensor values, first, second;  // [n], fp32: the parameters and their moments

 private:
  // Numbers that are updated at a time: what is made meanwhile takes 4 MB.
  static constexpr int64_t kPiece = int64_t(1) << 20;
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8;
  struct Part {
    int64_t offset;
    std::vector<int64_t> shape;
  };
  std::vector<Part> parts_;
};

}  // namespace swap
