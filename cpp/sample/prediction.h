// What the U-Net predicts, and the image or the noise that follows from it.
//
// All take the level of noise as alpha and sigma: sample = alpha * image + sigma * noise.
#pragma once

#include <ATen/ATen.h>

#include "engine.h"

namespace swap {

enum class Prediction { Epsilon, V, Sample };

// Throws SWAP_SCHEDULER_OPTION.
Prediction prediction_type(const SchedulerSpec& spec);

at::Tensor predicted_image(Prediction type, const at::Tensor& output, const at::Tensor& sample, float alpha,
                           float sigma);
at::Tensor predicted_noise(Prediction type, const at::Tensor& output, const at::Tensor& sample, float alpha,
                           float sigma);

// Where a sample of this level of noise comes from: alpha * image + sigma * noise.
inline at::Tensor noisy(const at::Tensor& image, const at::Tensor& noise, float alpha, float sigma) {
  return image * alpha + noise * sigma;
}

// Imagen's dynamic thresholding: each image is clamped to a quantile of its own magnitudes, then scaled into -1..1.
at::Tensor threshold(const at::Tensor& image, const SchedulerSpec& spec);

}  // namespace swap
