#include "models/text_encoder.h"

namespace swap {

TextEncoder::TextEncoder(const Scope& scope, const TextEncoderSpec& spec) : spec_(spec) {
  const int64_t d = spec.width;
  tokens_ = scope.read("embeddings.token_embedding.weight", {spec.vocab, d});
  positions_ = scope.read("embeddings.position_embedding.weight", {spec.positions, d});
  // The layers after the state that is used are not read at all.
  for (int64_t i = 0; i < spec.layers - spec.skip_layers; ++i) {
    const Scope layer = scope / "encoder" / "layers" / i, attention = layer / "self_attn", mlp = layer / "mlp";
    layers_.push_back({LayerNorm(layer / "layer_norm1", d, spec.norm_eps),
                       LayerNorm(layer / "layer_norm2", d, spec.norm_eps), Linear(attention / "q_proj", d, d),
                       Linear(attention / "k_proj", d, d), Linear(attention / "v_proj", d, d),
                       Linear(attention / "out_proj", d, d), Linear(mlp / "fc1", d, spec.intermediate),
                       Linear(mlp / "fc2", spec.intermediate, d)});
  }
  if (spec.final_norm) final_norm_ = LayerNorm(scope / "final_layer_norm", d, spec.norm_eps);
}

at::Tensor TextEncoder::embed(const at::Tensor& ids) const { return at::embedding(tokens_, ids); }

at::Tensor TextEncoder::encode(const at::Tensor& embeddings, const Cancel& cancel) const {
  auto x = embeddings + positions_.narrow(0, 0, embeddings.size(1));
  for (const auto& layer : layers_) {
    x = cancel.at(x);
    const auto y = layer.norm1(x);
    const auto attended =
        at::scaled_dot_product_attention(split_heads(layer.q(y), spec_.heads), split_heads(layer.k(y), spec_.heads),
                                         split_heads(layer.v(y), spec_.heads), {}, 0.0, /*is_causal=*/true);
    x = x + layer.out(join_heads(attended));
    auto h = layer.fc1(layer.norm2(x));
    h = spec_.activation == "quick_gelu" ? h * at::sigmoid(h * 1.702) : at::gelu(h);
    x = x + layer.fc2(h);
  }
  return final_norm_.weight.defined() ? final_norm_(x) : x;
}

}  // namespace swap
