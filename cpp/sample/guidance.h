// Classifier-free guidance, https://arxiv.org/abs/2207.12598.
#pragma once

#include <ATen/ATen.h>

namespace swap {

// `output` [2b, ...]: of the negative prompt, then of the prompt -> [b, ...].
// `rescale` 0..1 is how far the spread of each image's guided output returns to that of the prompt's own
// (https://arxiv.org/abs/2305.08891, section 3.4): high scales overexpose without.
inline at::Tensor guide(const at::Tensor& output, double scale, double rescale) {
  const auto halves = output.chunk(2);
  const at::Tensor &unwanted = halves[0], &wanted = halves[1];
  const at::Tensor guided = unwanted + scale * (wanted - unwanted);
  if (rescale <= 0) return guided;
  const auto spread = [](const at::Tensor& x) { return x.flatten(1).std(1).view({-1, 1, 1, 1}); };
  return guided * (spread(wanted) / spread(guided) * rescale + (1 - rescale));
}

}  // namespace swap
