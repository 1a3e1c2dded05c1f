#include "sample/prediction.h"

#include "runtime/error.h"

namespace swap {

Prediction prediction_type(const SchedulerSpec& spec) {
  const std::string& type = spec.noise.prediction_type;
  if (type == "epsilon") return Prediction::Epsilon;
  if (type == "v_prediction") return Prediction::V;
  if (type == "sample") return Prediction::Sample;
  throw Error("SWAP_SCHEDULER_OPTION", "there is no prediction type '" + type + "'",
              "choose epsilon, v_prediction or sample");
}

at::Tensor predicted_image(Prediction type, const at::Tensor& output, const at::Tensor& sample, float alpha,
                           float sigma) {
  switch (type) {
    case Prediction::Epsilon:
      return (sample - output * sigma) / alpha;
    case Prediction::V:
      return sample * alpha - output * sigma;
    default:
      return output;
  }
}

at::Tensor predicted_noise(Prediction type, const at::Tensor& output, const at::Tensor& sample, float alpha,
                           float sigma) {
  switch (type) {
    case Prediction::Epsilon:
      return output;
    case Prediction::V:
      return output * alpha + sample * sigma;
    default:
      return (sample - output * alpha) / sigma;
  }
}

at::Tensor threshold(const at::Tensor& image, const SchedulerSpec& spec) {
  const at::Tensor flat = image.flatten(1);
  const at::Tensor limit =
      flat.abs().quantile(spec.dynamic_thresholding_ratio, 1, true).clamp(1, spec.sample_max_value);  // [images, 1]
  return (flat.clamp(-limit, limit) / limit).view_as(image);
}

}  // namespace swap
