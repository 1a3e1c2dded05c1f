// What a U-Net takes besides latents, timesteps and text states. Undefined: the model has no use for it.
#pragma once

#include <ATen/ATen.h>

#include <vector>

namespace swap {

struct Conditions {
  at::Tensor pooled;    // [B, pooled_width] fp32
  at::Tensor time_ids;  // [B, 6] fp32: original height and width, top and left of the crop, target height and width
  at::Tensor guidance;  // [B] fp32: the guidance scale less one (LCM)
  // Of ControlNets: added to the skip connections in the order that they are made, and to the middle's output.
  std::vector<at::Tensor> down_residuals;
  at::Tensor mid_residual;
};

}  // namespace swap
