#include "models/transformer.h"

#include "attention/self_attention.h"
#include "attention/split_attention.h"
#include "models/gated_linear.h"

namespace swap {

SpatialTransformer::SelfAttention::SelfAttention(const Scope& scope, int64_t width)
    : qkv(scope, {"to_q", "to_k", "to_v"}, width, width, false), out(scope / "to_out" / 0, width, width) {}

SpatialTransformer::CrossAttention::CrossAttention(const Scope& scope, int64_t width, int64_t context_width)
    : q(scope / "to_q", width, width, false),
      k(scope / "to_k", context_width, width, false),
      v(scope / "to_v", context_width, width, false),
      out(scope / "to_out" / 0, width, width) {}

SpatialTransformer::Block::Block(const Scope& scope, int64_t width, int64_t context_width)
    : norm1(scope / "norm1", width),
      norm2(scope / "norm2", width),
      norm3(scope / "norm3", width),
      self(scope / "attn1", width),
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

namespace {

// A branch that adds what it begins with to what it gives.
template <typename Branch>
at::Tensor residual(Steps* steps, const Branch& branch) {
  if (steps) steps->fork();
  const auto y = branch();
  if (steps) steps->join();
  return y;
}

}  // namespace

at::Tensor SpatialTransformer::begin(const at::Tensor& x, const Cancel& cancel, Steps* steps) const {
  const int64_t height = x.size(2), width = x.size(3);
  auto h = norm_(x, steps);
  if (!linear_) h = conv_in_(h, steps);
  h = rows_of_picture(h);
  if (noted(steps)) steps->then([=](const at::Tensor& dy) { return picture_of_rows(dy, height, width); });
  if (linear_) h = linear_in_(h, steps);
  // Some ControlNets have levels without a block.
  return blocks_.empty() ? h : attend_itself(blocks_[0], h, cancel, steps);
}

at::Tensor SpatialTransformer::operator()(const at::Tensor& x, const at::Tensor& begun, AttentionContext& context,
                                          Steps* steps, std::vector<at::Tensor>& losses) const {
  const int64_t B = context.k_states.size(0), height = x.size(2), width = x.size(3);
  // Samples that are one up to the first cross-attention have no way back.
  TORCH_CHECK(!steps || x.size(0) == B, "a gradient for ", x.size(0), " samples of ", B);
  TORCH_CHECK(!begun.defined() || !noted(steps), "a gradient for what was begun without steps");
  return residual(steps, [&] {
    auto h = repeat_to(begun.defined() ? begun : begin(x, context.cancel, steps), B);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const auto& block = blocks_[i];
      if (i > 0) h = attend_itself(block, h, context.cancel, steps);
      h = residual(steps, [&] {
        const auto out =
            cross_attention(block.cross, block.norm2(h, steps), context, static_cast<int64_t>(i), steps, losses);
        return block.cross.out(out, steps, h);
      });
      h = residual(steps, [&] {
        const auto& gate = block.gate;
        const auto gated = gated_linear(block.norm3(h, steps), gate.weight, gate.bias, gate.packed.get(), steps);
        return block.out(gated, steps, h);
      });
    }
    const auto input = repeat_to(x, B);
    if (linear_) h = linear_out_(h, steps, rows_of_picture(input));
    if (noted(steps)) steps->then([](const at::Tensor& dy) { return rows_of_picture(dy); });
    h = picture_of_rows(h, height, width);
    return linear_ ? h : conv_out_(h, steps, input);
  });
}

at::Tensor SpatialTransformer::attend_itself(const Block& block, const at::Tensor& rows, const Cancel& cancel,
                                             Steps* steps) const {
  check(cancel, steps);
  return residual(steps, [&] {
    const auto& layer = block.self;
    const auto x = block.norm1(rows, steps);
    const auto qkv = cast(layer.qkv(x, steps), upcast_ ? at::kFloat : x.scalar_type(), steps);
    return layer.out(cast(swap::self_attention(qkv, heads_, steps), x.scalar_type(), steps), steps, rows);
  });
}

at::Tensor SpatialTransformer::cross_attention(const CrossAttention& layer, const at::Tensor& x,
                                               AttentionContext& context, int64_t depth, Steps* steps,
                                               std::vector<at::Tensor>& losses) const {
  const auto index = static_cast<size_t>(first_layer_ + depth);
  const auto dtype = x.scalar_type(), inner = upcast_ ? at::kFloat : dtype;
  const auto heads = [&](const at::Tensor& projected) { return split_heads(cast(projected, inner), heads_); };
  const auto q = heads(layer.q(x, steps));
  CrossProjection own, &projection = context.projections && !steps ? context.projections->at(index) : own;
  if (!projection.k.defined()) projection = {heads(layer.k(context.k_states)), heads(layer.v(context.v_states))};
  const auto &k = projection.k, &v = projection.v;
  at::Tensor reference;
  if (!context.reference.empty() && (*context.reference[0])[index].defined()) {
    std::vector<at::Tensor> keys;
    for (const auto* sample : context.reference) keys.push_back((*sample)[index]);
    reference = (keys.size() == 1 ? keys[0] : at::cat(keys, 0)).to(inner);
  }
  SplitAttentionResult result;
  const size_t number = losses.size();  // of this layer's loss, in the block
  if (steps) {
    SplitAttentionGradient gradient;
    std::tie(result, gradient) = split_attention_and_gradient(q, k, v, reference, context.token_weights);
    const bool for_q = steps->live;
    steps->live = true;
    steps->then_all([=, this, &layer](Carried& carried) {
      const auto dout = split_heads(cast(carried.x, inner), heads_);
      const auto [dq, dk, dv] = gradient(dout, carried.losses[number], for_q);
      carried.x = for_q ? cast(join_heads(dq), dtype) : at::Tensor();
      const auto to_states = [&](const at::Tensor& projected, const Linear& projection, at::Tensor& states) {
        const auto more =
            linear_gradient(cast(join_heads(projected), dtype), projection.weight, projection.packed.get());
        states = states.defined() ? states + more : more;
      };
      to_states(dk, layer.k, carried.k_states), to_states(dv, layer.v, carried.v_states);
    });
  } else {
    result = split_attention(q, k, v, reference, context.token_weights);
  }
  losses.push_back(result.loss);
  return cast(join_heads(result.out), dtype);
}

void SpatialTransformer::cross_keys(const at::Tensor& states, ReferenceKeys& keys) const {
  for (size_t i = 0; i < blocks_.size(); ++i) {
    keys.at(first_layer_ + i) = split_heads(blocks_[i].cross.k(states), heads_).contiguous();
  }
}

}  // namespace swap
