#include "models/transformer.h"

#include "attention/self_attention.h"
#include "attention/split_attention.h"
#include "models/gated_linear.h"

namespace swap {

SpatialTransformer::Attention::Attention(const Scope& scope, int64_t width, int64_t context_width)
    : q(scope / "to_q", width, width, false),
      k(scope / "to_k", context_width, width, false),
      v(scope / "to_v", context_width, width, false),
      out(scope / "to_out" / 0, width, width) {}

SpatialTransformer::Block::Block(const Scope& scope, int64_t width, int64_t context_width)
    : norm1(scope / "norm1", width),
      norm2(scope / "norm2", width),
      norm3(scope / "norm3", width),
      self(scope / "attn1", width, width),
      cross(scope / "attn2", width, context_width),
      gate(scope / "ff" / "net" / 0 / "proj", width, 8 * width),
      out(scope / "ff" / "net" / 2, 4 * width, width) {}

SpatialTransformer::SpatialTransformer(const Scope& scope, const UNetSpec& spec, int64_t channels, int64_t heads,
                                       int64_t depth, int64_t first_layer)
    : heads_(heads),
      first_layer_(first_layer),
      linear_(spec.linear_projection),
      upcast_(spec.upcast_attention),
      norm_(scope / "norm", channels, spec.norm_groups, 1e-6) {
  if (linear_) {
    linear_in_ = Linear(scope / "proj_in", channels, channels);
    linear_out_ = Linear(scope / "proj_out", channels, channels);
  } else {
    conv_in_ = Conv2d(scope / "proj_in", channels, channels, 1);
    conv_out_ = Conv2d(scope / "proj_out", channels, channels, 1);
  }
  for (int64_t i = 0; i < depth; ++i) {
    blocks_.emplace_back(scope / "transformer_blocks" / i, channels, spec.cross_attention_dim);
  }
}

at::Tensor SpatialTransformer::operator()(const at::Tensor& x, AttentionContext& context) const {
  // Channels-last pixels are rows already: the permutations below are views.
  auto h = norm_(x);
  if (!linear_) h = conv_in_(h);
  h = h.permute({0, 2, 3, 1}).reshape({x.size(0), x.size(2) * x.size(3), x.size(1)});
  const int64_t B = context.k_states.size(0);
  if (linear_) h = linear_in_(h);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const auto& block = blocks_[i];
    h = context.cancel.at(h);
    h = repeat_to(sum_into(self_attention(block.self, block.norm1(h)), h), B);
    h = sum_into(cross_attention(block.cross, block.norm2(h), context, first_layer_ + static_cast<int64_t>(i)), h);
    h = sum_into(block.out(gated_linear(block.norm3(h), block.gate.weight, block.gate.bias, block.gate.packed)), h);
  }
  if (linear_) h = linear_out_(h);
  h = h.view({h.size(0), x.size(2), x.size(3), x.size(1)}).permute({0, 3, 1, 2});
  if (!linear_) h = conv_out_(h);
  return repeat_to(x, h.size(0)) + h;
}

at::Tensor SpatialTransformer::self_attention(const Attention& layer, const at::Tensor& x) const {
  auto q = split_heads(layer.q(x), heads_), k = split_heads(layer.k(x), heads_), v = split_heads(layer.v(x), heads_);
  if (upcast_) q = q.to(at::kFloat), k = k.to(at::kFloat), v = v.to(at::kFloat);
  return layer.out(join_heads(swap::self_attention(q, k, v)).to(x.scalar_type()));
}

at::Tensor SpatialTransformer::cross_attention(const Attention& layer, const at::Tensor& x, AttentionContext& context,
                                               int64_t index) const {
  auto q = split_heads(layer.q(x), heads_), k = split_heads(layer.k(context.k_states), heads_);
  auto v = split_heads(layer.v(context.v_states), heads_);
  at::Tensor reference;
  if (!context.reference.empty() && (*context.reference[0])[index].defined()) {
    std::vector<at::Tensor> keys;
    for (const auto* sample : context.reference) keys.push_back((*sample)[index]);
    reference = keys.size() == 1 ? keys[0] : at::cat(keys, 0);
  }
  if (upcast_) {
    q = q.to(at::kFloat), k = k.to(at::kFloat), v = v.to(at::kFloat);
    if (reference.defined()) reference = reference.to(at::kFloat);
  }
  auto result = split_attention(q, k, v, reference, context.token_weights);
  if (result.loss.defined()) context.losses.at(index) = result.loss;
  return layer.out(join_heads(result.out).to(x.scalar_type()));
}

void SpatialTransformer::cross_keys(const at::Tensor& states, ReferenceKeys& keys) const {
  for (size_t i = 0; i < blocks_.size(); ++i) {
    keys.at(first_layer_ + i) = split_heads(blocks_[i].cross.k(states), heads_).contiguous();
  }
}

}  // namespace swap
