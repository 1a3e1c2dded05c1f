#include "sample/start.h"

#include <algorithm>

#include "runtime/error.h"
#include "runtime/tensors.h"

namespace swap {
namespace {

// [height, width] -> [1, 1, height, width], 0 or 1.
at::Tensor binary_mask(const InitialImage& initial) {
  const auto pixels = static_cast<size_t>(initial.image.width * initial.image.height);
  if (initial.mask.size() != pixels) {
    throw Error("SWAP_ENGINE_ARGUMENT", "generate: a mask of " + std::to_string(initial.mask.size()) + " values for " +
                                            std::to_string(pixels) + " pixels");
  }
  const at::Tensor mask = at::tensor(initial.mask, at::kFloat).view({1, 1, initial.image.height, initial.image.width});
  return (mask >= 0.5).to(at::kFloat);
}

void check(const GenerateRequest& request) {
  const InitialImage& initial = *request.initial;
  const auto bytes = static_cast<size_t>(3 * request.width * request.height);
  if (initial.image.width != request.width || initial.image.height != request.height ||
      initial.image.data.size() != bytes) {
    throw Error("SWAP_ENGINE_ARGUMENT", "generate: an image of " + std::to_string(initial.image.width) + " x " +
                                            std::to_string(initial.image.height) + " pixels to begin from for " +
                                            std::to_string(request.width) + " x " + std::to_string(request.height));
  }
  // Not "below 0 or above 1", which NaN is not.
  if (!(initial.strength > 0 && initial.strength <= 1)) {
    throw Error("SWAP_ENGINE_ARGUMENT", "generate: a strength of " + std::to_string(initial.strength));
  }
}

}  // namespace

at::Tensor Start::kept(const at::Tensor& latents, const Scheduler& scheduler, int64_t i) const {
  if (!mask.defined()) return latents;
  const bool last = i + 1 == static_cast<int64_t>(scheduler.timesteps().size());
  const at::Tensor there = last ? image : scheduler.add_noise(image, noise, i + 1);
  return (1 - mask) * there + mask * latents;
}

Beginning::Beginning(const DiffusionModel& model, const GenerateRequest& request, const Cancel& cancel)
    : model_(model), height_(request.height / model.vae.factor()), width_(request.width / model.vae.factor()) {
  inpainting_model_ = model.spec.unet.in_channels != model.spec.vae.latent_channels;
  if (!request.initial) {
    if (inpainting_model_) throw Error("SWAP_ENGINE_ARGUMENT", "generate: an inpainting model needs an image");
    return;
  }
  check(request);
  const InitialImage& initial = *request.initial;
  const double steps = static_cast<double>(request.steps);
  left_out_ = request.steps - std::min(static_cast<int64_t>(steps * initial.strength), request.steps);
  const at::Tensor pixels = to_tensor(initial.image).to(model.compute.device);
  const bool masked = !initial.mask.empty() || inpainting_model_;
  pure_noise_ = masked && initial.strength == 1;
  // An inpainting model that begins from noise alone has no other use for the image than what is kept of it.
  if (!inpainting_model_ || !pure_noise_) image_ = encode(pixels, cancel);
  if (!masked) return;
  const at::Tensor mask =
      (initial.mask.empty() ? at::ones({1, 1, request.height, request.width}) : binary_mask(initial))
          .to(model.compute.device);
  if (inpainting_model_) kept_ = encode(pixels * (1 - mask), cancel);
  // The upper left pixel of each that falls on a latent, as in diffusers.
  const int64_t factor = model.vae.factor();
  mask_ = mask.slice(2, 0, request.height, factor).slice(3, 0, request.width, factor).contiguous();
}

Beginning::Distribution Beginning::encode(const at::Tensor& image, const Cancel& cancel) const {
  const auto [mean, deviation] = model_.vae.encode(image, cancel);
  const VaeSpec& vae = model_.spec.vae;
  return {(mean - vae.shift_factor) * vae.scaling_factor, deviation * vae.scaling_factor};
}

Start Beginning::draw(const Scheduler& scheduler, const Noise& noise) const {
  const int64_t channels = model_.spec.vae.latent_channels;
  const auto fresh = [&] { return to_device(noise.draw({channels, height_, width_}), model_.compute.device); };
  const auto sampled = [&](const Distribution& of) { return of.mean + of.deviation * fresh(); };
  Start start;
  at::Tensor image;
  if (image_) image = sampled(*image_);
  const at::Tensor drawn = fresh();
  start.latents =
      pure_noise_ ? drawn * scheduler.init_noise_sigma() : scheduler.add_noise(image, drawn, scheduler.begin());
  if (!mask_.defined()) return start;
  if (kept_) {
    const at::Tensor kept = sampled(*kept_);
    start.beside = at::cat({mask_.expand({kept.size(0), -1, -1, -1}), kept}, 1);
    return start;
  }
  // diffusers encodes what is kept for ordinary models too, where nothing uses it but the generator.
  fresh();
  start.image = image;
  start.noise = drawn;
  start.mask = mask_;
  return start;
}

}  // namespace swap
