// The residual block of the U-Net (with a timestep embedding) and of the VAE (without one).
#pragma once

#include "models/layers.h"

namespace swap {

struct ResnetBlock {
  GroupNorm norm1, norm2;
  Conv2d conv1, conv2;
  Linear time;      // undefined in the VAE
  Conv2d shortcut;  // 1x1, where in != out

  ResnetBlock(const Scope& scope, int64_t in, int64_t out, int64_t time_width, int64_t groups, double eps)
      : norm1(scope / "norm1", in, groups, eps),
        norm2(scope / "norm2", out, groups, eps),
        conv1(scope / "conv1", in, out, 3, 1, 1),
        conv2(scope / "conv2", out, out, 3, 1, 1) {
    if (time_width > 0) time = Linear(scope / "time_emb_proj", time_width, out);
    if (in != out) shortcut = Conv2d(scope / "conv_shortcut", in, out, 1);
  }

  // What the timestep's embedding [B, time width], after SiLU, adds to the features: [B, out, 1, 1].
  at::Tensor shift(const at::Tensor& embedding) const { return time(embedding).unsqueeze(-1).unsqueeze(-1); }

  // x [B, in, h, w]; shift [B or 1, out, 1, 1], which has no gradient, or undefined
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& shift = {}, Steps* steps = nullptr) const {
    const bool shortened = shortcut.weight.defined();
    if (steps) steps->fork();
    auto h = conv1(norm1.activated(x, steps), steps, shift);
    h = norm2.activated(h, steps);
    h = conv2(h, steps, shortened ? shortcut(x) : x);
    if (steps) steps->join(shortened ? shortcut.way_back(x) : Steps::Step());
    return h;
  }
};

}  // namespace swap
