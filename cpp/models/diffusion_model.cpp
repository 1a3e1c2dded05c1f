#include "models/diffusion_model.h"

#include <algorithm>
#include <cmath>

#include "sample/noise_schedule.h"

namespace swap {
namespace {

// Numbers of an activation at the U-Net's first level, of one row, up to which threads work on shares of a batch.
// Measured with the embedded model on two cores: guided, 128 x 128 pixels (16,384) took half as long so, 256 x 256
// (65,536) 0.6 times, 512 x 512 0.9 times; one row alone 0.65 and 0.9 times, from 384 x 384 on longer. So where threads
// are left without a row the limit is lower; more than two threads were not measured.
constexpr int64_t kSmallRow = 1 << 17, kLeastSmallRow = 1 << 15;

std::vector<TextEncoder> read_text_encoders(WeightStore& store, const ModelSpec& spec) {
  std::vector<TextEncoder> encoders;
  for (size_t i = 0; i < spec.text_encoders.size(); ++i) {
    encoders.emplace_back(Scope(store, "text_encoder." + std::to_string(i) + ".", at::kFloat), spec.text_encoders[i],
                          store.compute().dtype);
  }
  return encoders;
}

}  // namespace

DiffusionModel::DiffusionModel(WeightStore& store, const ModelSpec& spec)
    : spec(spec),
      compute(store.compute()),
      small(store.small()),
      text(read_text_encoders(store, spec)),
      unet(Scope(store, "unet.", compute.dtype), spec.unet),
      vae(Scope(store, "vae.", vae_dtype(compute.dtype)), spec.vae),
      alphas_cumprod(swap::alphas_cumprod(spec.noise).to(at::kFloat)) {}

at::Tensor DiffusionModel::insert(const at::Tensor& embeddings, int64_t position, const at::Tensor& vectors) {
  const int64_t end = position + vectors.size(0);
  return at::cat({embeddings.narrow(0, 0, position), vectors, embeddings.narrow(0, end, embeddings.size(0) - end)}, 0);
}

at::Tensor DiffusionModel::ids(const std::vector<int64_t>& tokens) const {
  return at::tensor(tokens, at::TensorOptions().dtype(at::kLong)).to(compute.device);
}

at::Tensor DiffusionModel::time_ids(const std::vector<double>& given, const char* name) const {
  if (spec.unet.pooled_width == 0) return {};
  if (given.size() != 6) {
    throw Error("SWAP_ENGINE_ARGUMENT",
                std::string(name) + ": this model takes six sizes, not " + std::to_string(given.size()));
  }
  return at::tensor(given, at::TensorOptions().dtype(at::kFloat)).unsqueeze(0).to(compute.device);
}

int64_t DiffusionModel::pooling_encoder() const {
  if (spec.unet.pooled_width == 0) return -1;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i].spec().projection_dim > 0) return static_cast<int64_t>(i);
  }
  throw Error("SWAP_ENGINE_ARGUMENT", "spec: the U-Net takes a pooled state, and no text encoder gives one");
}

Shares DiffusionModel::shares(int64_t rows, int64_t height, int64_t width) const {
  const int64_t numbers = height * width * spec.unet.levels[0].channels, threads = compute.threads;
  const int64_t limit = rows < threads ? std::max(kSmallRow * rows / threads, kLeastSmallRow) : kSmallRow;
  return small && compute.device.is_cpu() && numbers <= limit ? Shares::apart(rows) : Shares::whole(rows);
}

int64_t DiffusionModel::stage(double timestep, int64_t stages) const {
  const auto i = static_cast<int64_t>(std::floor(timestep * static_cast<double>(stages) / spec.noise.train_timesteps));
  return std::clamp<int64_t>(i, 0, stages - 1);
}

}  // namespace swap
