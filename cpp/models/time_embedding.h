// The embedding that every resnet of a U-Net takes: of the timestep, and of what else a model hangs on it.
#pragma once

#include "models/conditions.h"
#include "models/layers.h"

namespace swap {

class TimeEmbedding {
 public:
  TimeEmbedding(const Scope& scope, const UNetSpec& spec);

  // timesteps [B] -> [B, 4 * channels] after SiLU, for every resnet begins with that.
  at::Tensor operator()(const at::Tensor& timesteps, const Conditions& conditions) const;

 private:
  UNetSpec spec_;
  Linear linear1_, linear2_;
  Linear guidance_;     // of LCM, without bias
  Linear add1_, add2_;  // of SDXL: the pooled state and the sizes
};

}  // namespace swap
