// One frozen base model: text encoders, U-Net, VAE and the noise that it was trained with.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "models/control_net.h"
#include "models/text_encoder.h"
#include "models/unet.h"
#include "models/vae.h"
#include "runtime/device.h"
#include "runtime/shares.h"

namespace swap {

struct DiffusionModel {
  DiffusionModel(WeightStore& store, const ModelSpec& spec);

  ModelSpec spec;
  Compute compute;
  bool small;  // as WeightStore::small() says
  std::vector<TextEncoder> text;
  UNet unet;
  Vae vae;
  std::map<std::string, ControlNet> controls;  // by the name that they were attached under
  at::Tensor alphas_cumprod;                   // [T] fp32: the share of signal that is left at each timestep

  // Token embeddings [L, d] of one encoder with rows [position, position + n) replaced by `vectors` [n, d].
  static at::Tensor insert(const at::Tensor& embeddings, int64_t position, const at::Tensor& vectors);

  at::Tensor ids(const std::vector<int64_t>& tokens) const;  // [L], on the device

  // Sizes of a request as the U-Net takes them, [1, 6]; undefined where it takes none. Throws where they are not six.
  at::Tensor time_ids(const std::vector<double>& given, const char* name) const;

  // The encoder whose pooled state the U-Net takes; -1: none.
  int64_t pooling_encoder() const;

  // How a batch for the U-Net is divided, `rows` latents of `height` x `width`: as a whole where the model or its
  // activations are large enough to keep all threads busy by themselves.
  Shares shares(int64_t rows, int64_t height, int64_t width) const;
  // The same for the VAE's decoder, which takes one picture at a time.
  Shares decoding(int64_t height, int64_t width) const;

  // Stage of a timestep for a subject of S stages: stage 0 has the least noise.
  int64_t stage(double timestep, int64_t stages) const;

 private:
  bool is_small(int64_t height, int64_t width, int64_t limit) const;
};

}  // namespace swap
