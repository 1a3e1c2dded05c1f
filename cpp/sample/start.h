// What a picture begins from: noise alone, or an image with noise laid over it, and a mask of what is painted anew.
#pragma once

#include <optional>

#include "models/diffusion_model.h"
#include "sample/scheduler.h"

namespace swap {

// The pictures of one batch; tensors are [b, ...] float32.
struct Start {
  at::Tensor latents;  // before the first step
  // The mask and the latents of what is kept, behind the latents in an inpainting model's input; else undefined.
  at::Tensor beside;
  // Where an ordinary model paints with a mask [1, 1, h, w], the image's own latents come back outside of it after
  // each step, with the noise that is due there; else undefined.
  at::Tensor image, noise, mask;

  // What the U-Net is given for `noisy` [b or 2b, C, h, w].
  at::Tensor model_input(const at::Tensor& noisy) const {
    if (!beside.defined()) return noisy;
    return at::cat({noisy, beside.repeat({noisy.size(0) / beside.size(0), 1, 1, 1})}, 1);
  }
  // What the step of call i made, with what is kept put back.
  at::Tensor kept(const at::Tensor& latents, const Scheduler& scheduler, int64_t i) const;
};

class Beginning {
 public:
  // Encodes the request's image, once for all pictures. Throws SWAP_ENGINE_ARGUMENT for a request that does not fit
  // itself or the model.
  Beginning(const DiffusionModel& model, const GenerateRequest& request, const Cancel& cancel);

  // How many of the scheduler's calls are left out.
  int64_t calls_left_out() const { return left_out_; }

  // Draws in the order of diffusers' pipelines, so that a seed gives the same picture: the image's latents, the
  // noise, and with a mask the latents of what is kept.
  Start draw(const Scheduler& scheduler, const Noise& noise) const;

 private:
  struct Distribution {
    at::Tensor mean, deviation;  // [1, C, h, w], scaled
  };
  Distribution encode(const at::Tensor& image, const Cancel& cancel) const;

  const DiffusionModel& model_;
  const int64_t height_, width_;
  int64_t left_out_ = 0;
  bool pure_noise_ = true;  // the first sample has nothing of the image
  bool inpainting_model_ = false;
  at::Tensor mask_;  // [1, 1, h, w], 1 where it is painted anew; undefined: no mask
  std::optional<Distribution> image_, kept_;
};

}  // namespace swap
