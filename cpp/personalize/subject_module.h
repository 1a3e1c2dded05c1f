// What is learnt: the parameters that give a subject's per-stage pairs of token embeddings.
//
// Both parametrizations start at the class word: P = e_class + gain * delta with delta = 0. Direct, delta is one vector
// for all stages, K and V, plus one for each of them.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <utility>
#include <vector>

namespace swap {

struct SubjectShape {
  int64_t stages = 5;
  int64_t tokens = 1;   // n, of the class word
  bool split = true;    // K and V apart
  bool direct = false;  // the vectors themselves, else the self-attention module
};

class SubjectModule {
 public:
  // class_embeddings [n, d]; gain []: the deviation of the base model's token embeddings
  SubjectModule(const SubjectShape& shape, const at::Tensor& class_embeddings, const at::Tensor& gain,
                at::Generator generator);

  // K and V, each [S, n, d]; the same tensor when they are shared
  std::pair<at::Tensor, at::Tensor> vectors() const;

  // fp32 leaves with requires_grad, in a fixed order
  const std::vector<std::pair<std::string, at::Tensor>>& parameters() const { return parameters_; }

 private:
  at::Tensor& parameter(const std::string& name, at::Tensor value);
  void linear(const std::string& name, int64_t in, int64_t out, at::Generator& generator);
  void norm(const std::string& name);
  at::Tensor get(const std::string& name) const;
  at::Tensor apply_linear(const std::string& name, const at::Tensor& x) const;
  at::Tensor apply_norm(const std::string& name, const at::Tensor& x) const;
  at::Tensor self_attention(const std::string& name, const at::Tensor& x) const;

  SubjectShape shape_;
  at::Tensor class_;
  at::Tensor gain_;
  int64_t width_;
  std::vector<std::pair<std::string, at::Tensor>> parameters_;
};

}  // namespace swap
