// ControlNetModel: a copy of the U-Net's way down and middle that turns a picture into residuals for it.
#pragma once

#include <vector>

#include "models/down_path.h"

namespace swap {

class UNet;

class ControlNet {
 public:
  ControlNet(const Scope& scope, const ControlNetSpec& spec);

  // Throws SWAP_CONTROL_MODEL where the residuals would not fit the U-Net's features, or the picture not the latents,
  // which are `factor` times smaller than it.
  void check_fits(const UNet& unet, int64_t factor) const;

  // image [B, 3, H, W] in 0..1 -> [B, channels, H/f, W/f]. The same at every timestep.
  at::Tensor embed(const at::Tensor& image) const;

  // Fills in the residuals of `conditions`, adding `scale` times its own to what is there. `picture` is what `embed`
  // gave, its batch 1 or that of latents [B, in or more, h, w]; of those it takes the first that it has a use for.
  void operator()(const at::Tensor& latents, const at::Tensor& timesteps, const at::Tensor& picture, double scale,
                  AttentionContext& context, Conditions& conditions) const;

 private:
  ControlNetSpec spec_;
  DownPath down_;
  std::vector<Conv2d> picture_;  // every other one halves the size
  std::vector<Conv2d> zero_;     // one for each skip connection, 1x1: zero before training
  Conv2d zero_middle_;
};

}  // namespace swap
