// The ControlNets that take part in one generation.
#pragma once

#include <vector>

#include "models/diffusion_model.h"

namespace swap {

// The net of that name; throws SWAP_ENGINE_ARGUMENT where none is attached.
const ControlNet& attached(const DiffusionModel& model, const std::string& name);

class Controls {
 public:
  // Embeds the pictures, once for all steps. `width` and `height` are those of the pictures that are made.
  Controls(const DiffusionModel& model, const std::vector<ControlImage>& requests, int64_t width, int64_t height);

  // Adds the residuals of call `index` of `calls` to `conditions`: of each net that takes part in it. K and V states
  // are the U-Net's; reference keys and losses stay with the U-Net.
  void add(int64_t index, int64_t calls, const at::Tensor& latents, const at::Tensor& timesteps,
           const AttentionContext& unet, Conditions& conditions) const;

 private:
  struct Control {
    const ControlNet* net;
    at::Tensor picture;  // embedded, [1, C, h, w]
    double scale, start, end;
  };
  std::vector<Control> controls_;
};

}  // namespace swap
