#include "personalize/subject_module.h"

#include <algorithm>
#include <cmath>

#include "models/layers.h"
#include "runtime/error.h"

namespace swap {

SubjectModule::SubjectModule(const SubjectShape& shape, const at::Tensor& class_embeddings, const at::Tensor& gain,
                             at::Generator generator)
    : shape_(shape), class_(class_embeddings), gain_(gain), width_(class_embeddings.size(1)) {
  c10::NoGradGuard no_grad;
  const int64_t kinds = shape.split ? 2 : 1, d = width_;
  if (shape.direct) {
    // What all have in common, so that a stage learns from the others' steps too.
    if (kinds * shape.stages > 1) parameter("base", at::zeros({shape.tokens, d}));
    parameter("k", at::zeros({shape.stages, shape.tokens, d}));
    if (shape.split) parameter("v", at::zeros({shape.stages, shape.tokens, d}));
    return;
  }
  parameter("position", at::randn({kinds * shape.stages * shape.tokens, d}, generator) * 0.02);
  for (const char* layer : {"1", "2"}) {
    norm(std::string("norm") + layer);
    for (const char* part : {".q", ".k", ".v", ".out"}) linear(std::string("attn") + layer + part, d, d, generator);
  }
  norm("norm3");
  linear("ff1", d, 8 * d, generator);
  linear("ff2", 4 * d, d, generator);
  norm("norm4");
  parameter("out.weight", at::zeros({d, d}));
  parameter("out.bias", at::zeros({d}));
}

at::Tensor& SubjectModule::parameter(const std::string& name, at::Tensor value) {
  value = value.to(class_.device()).contiguous();
  value.set_requires_grad(true);
  parameters_.emplace_back(name, value);
  return parameters_.back().second;
}

void SubjectModule::linear(const std::string& name, int64_t in, int64_t out, at::Generator& generator) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  parameter(name + ".weight", (at::rand({out, in}, generator) * 2 - 1) * bound);
  parameter(name + ".bias", (at::rand({out}, generator) * 2 - 1) * bound);
}

void SubjectModule::norm(const std::string& name) {
  parameter(name + ".weight", at::ones({width_}));
  parameter(name + ".bias", at::zeros({width_}));
}

at::Tensor SubjectModule::get(const std::string& name) const {
  const auto found =
      std::find_if(parameters_.begin(), parameters_.end(), [&](const auto& p) { return p.first == name; });
  if (found == parameters_.end()) throw Error("SWAP_ENGINE_INTERNAL", "no parameter '" + name + "'");
  return found->second;
}

at::Tensor SubjectModule::apply_linear(const std::string& name, const at::Tensor& x) const {
  return at::linear(x, get(name + ".weight"), get(name + ".bias"));
}

at::Tensor SubjectModule::apply_norm(const std::string& name, const at::Tensor& x) const {
  return at::layer_norm(x, {width_}, get(name + ".weight"), get(name + ".bias"), 1e-5);
}

at::Tensor SubjectModule::self_attention(const std::string& name, const at::Tensor& x) const {
  int64_t heads = std::max<int64_t>(1, width_ / 64);
  while (width_ % heads != 0) --heads;
  const auto part = [&](const char* which) { return split_heads(apply_linear(name + which, x), heads); };
  return apply_linear(name + ".out", join_heads(at::scaled_dot_product_attention(part(".q"), part(".k"), part(".v"))));
}

std::pair<at::Tensor, at::Tensor> SubjectModule::vectors() const {
  if (shape_.direct) {
    const bool several = shape_.split || shape_.stages > 1;
    const auto base = several ? class_ + gain_ * get("base") : class_;
    const auto k = base + gain_ * get("k");
    return {k, shape_.split ? base + gain_ * get("v") : k};
  }
  // A sequence of (kind, stage, index): every vector may look at every other.
  const int64_t kinds = shape_.split ? 2 : 1;
  auto x = (class_ / class_.std()).repeat({kinds * shape_.stages, 1}) + get("position");
  x = x.unsqueeze(0);
  x = x + self_attention("attn1", apply_norm("norm1", x));
  x = x + self_attention("attn2", apply_norm("norm2", x));
  const auto halves = apply_linear("ff1", apply_norm("norm3", x)).chunk(2, -1);
  x = x + apply_linear("ff2", halves[0] * at::gelu(halves[1]));
  const auto delta = apply_linear("out", apply_norm("norm4", x)).view({kinds, shape_.stages, shape_.tokens, width_});
  const auto p = class_ + gain_ * delta;
  return {p[0], p[kinds - 1]};
}

}  // namespace swap
