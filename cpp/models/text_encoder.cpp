#include "models/text_encoder.h"

#include "attention/causal_attention.h"
#include "models/gelu.h"

namespace swap {
namespace {

// Bytes that the layers may keep for the gradient; where it would be more, they are taken again.
constexpr int64_t kKept = int64_t(64) << 20;

// Of the layers' products. Half precision's range is too small for the gradient, which is small here.
at::ScalarType product_dtype(at::ScalarType dtype) { return dtype == at::kBFloat16 ? dtype : at::kFloat; }

}  // namespace

TextEncoder::TextEncoder(const Scope& scope, const TextEncoderSpec& spec, at::ScalarType dtype) : spec_(spec) {
  const int64_t d = spec.width;
  tokens_ = scope.read_stored("embeddings.token_embedding.weight", {spec.vocab, d});
  positions_ = scope.read("embeddings.position_embedding.weight", {spec.positions, d});
  const bool whole = spec.projection_dim > 0;
  // The layers after the state that is used are not read at all, unless the pooled state comes from the last.
  for (int64_t i = 0; i < spec.layers - (whole ? 0 : spec.skip_layers); ++i) {
    const Scope layer = scope / "encoder" / "layers" / i, products = layer.as(product_dtype(dtype));
    const Scope attention = products / "self_attn", mlp = products / "mlp";
    layers_.push_back(
        {LayerNorm(layer / "layer_norm1", d, spec.norm_eps), LayerNorm(layer / "layer_norm2", d, spec.norm_eps),
         Linear(attention, {"q_proj", "k_proj", "v_proj"}, d, d, true), Linear(attention / "out_proj", d, d),
         Linear(mlp / "fc1", d, spec.intermediate), Linear(mlp / "fc2", spec.intermediate, d)});
  }
  if (spec.final_norm || whole) final_norm_ = LayerNorm(scope / "final_layer_norm", d, spec.norm_eps);
  if (whole) projection_ = scope.read("text_projection.weight", {spec.projection_dim, d});
}

at::Tensor TextEncoder::embed(const at::Tensor& ids) const { return at::embedding(tokens_, ids).to(at::kFloat); }

at::Tensor TextEncoder::apply(const Layer& layer, const at::Tensor& x, Steps* steps) const {
  const auto dtype = layer.qkv.weight.scalar_type();
  const auto residual = [&](const at::Tensor& input, const auto& branch) {
    if (steps) steps->fork();
    const auto y = branch(input);
    if (noted(steps)) steps->then([type = y.scalar_type()](const at::Tensor& dy) { return dy.to(type); });
    if (steps) steps->join();
    return input + y;  // in the type of the states
  };
  const auto z = residual(x, [&](const at::Tensor& input) {
    const auto qkv = layer.qkv(layer.norm1.to(dtype, input, steps), steps);
    return layer.out(causal_attention(qkv, spec_.heads, steps), steps);
  });
  return residual(z, [&](const at::Tensor& input) {
    const auto h = layer.fc1(layer.norm2.to(dtype, input, steps), steps);
    const auto active = spec_.activation == "quick_gelu" ? quick_gelu(h, steps) : gelu(h, steps);
    return layer.fc2(active, steps);
  });
}

EncodedText TextEncoder::run(const at::Tensor& embeddings, const Cancel& cancel, bool whole) const {
  const auto used = static_cast<size_t>(spec_.layers - spec_.skip_layers);
  EncodedText result;
  auto x = embeddings + positions_.narrow(0, 0, embeddings.size(1));
  // A layer keeps what both norms take, Q, K, V and what GELU takes for the gradient, and all layers' waits for the
  // U-Net's way back.
  const auto product = layers_.empty() ? 0 : static_cast<int64_t>(layers_[0].qkv.weight.element_size());
  const int64_t row = 2 * spec_.width * int64_t(sizeof(float)) + (3 * spec_.width + spec_.intermediate) * product;
  const bool sparing = x.numel() / spec_.width * row * static_cast<int64_t>(layers_.size()) > kKept;
  for (size_t i = 0; i < (whole ? layers_.size() : used); ++i) {
    if (i == used) result.states = x;
    const auto layer = [this, i](const at::Tensor& input, Steps* steps) { return apply(layers_[i], input, steps); };
    const auto block = [&](const at::Tensor& input, Steps* steps) {
      check(cancel, steps);
      return BlockResult{noted(steps) && sparing ? steps->again(input, layer) : layer(input, steps), {}};
    };
    x = as_node(block, x).y;
  }
  if (!result.states.defined()) result.states = x;
  const auto final = [this](const at::Tensor& input, Steps* steps) {
    return BlockResult{final_norm_(input, steps), {}};
  };
  if (spec_.final_norm) result.states = as_node(final, result.states).y;
  if (whole) result.last = as_node(final, x).y;
  return result;
}

at::Tensor TextEncoder::ends(const at::Tensor& ids) const {
  // The first end of the text, for it may be the padding too; without one, the greatest id, as older configs mean it.
  const auto ends = ids.eq(spec_.eos).to(at::kInt);
  return at::where(ends.any(1), ends.argmax(1), ids.argmax(1));
}

at::Tensor TextEncoder::pooled(const at::Tensor& last, const at::Tensor& ids) const {
  const auto place = ends(ids);
  const auto rows = at::arange(ids.size(0), place.options());
  return at::linear(last.index({rows, place}), projection_);
}

}  // namespace swap
