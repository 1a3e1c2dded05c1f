#include "models/diffusion_model.h"

#include <algorithm>
#include <cmath>

#include "models/product.h"
#include "sample/noise_schedule.h"

namespace swap {
namespace {

// Numbers of an activation at the U-Net's first level, of one row, up to which threads work on shares of a batch: the
// embedded model up to 1024 x 1024 pixels. Measured with it on two cores, as times of what the layers' own division
// takes: guided, 128 x 128 pixels (16,384) 0.5, 384 x 384 0.73, 512 x 512 0.87, 768 x 768 0.95; one row alone, in which
// the second thread helps, 0.68 at 384 x 384, 0.81, 0.94. More than two threads were not measured: where some are left
// without a row the limit is lower.
constexpr int64_t kSmallRow = 1 << 20;
// The same of a picture that is decoded: 0.8 at 128 x 128, 0.97 at 320 x 320 (102,400), 1.04 at 384 x 384.
constexpr int64_t kSmallPicture = 1 << 17;
// Rows where products are not our own, since LibTorch's are not divided in a share, and rows that leave threads idle.
constexpr int64_t kSmallSerial = 1 << 17, kLeastSmallSerial = 1 << 15;

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
  const int64_t threads = compute.threads;
  const bool own = has_products(compute.dtype);
  int64_t limit = own ? kSmallRow : kSmallSerial;
  if (rows < threads) {
    limit = own && rows == 1 ? 2 * kSmallRow / threads : std::max(kSmallSerial * rows / threads, kLeastSmallSerial);
  }
  return is_small(height, width, limit) ? Shares::apart(rows) : Shares::whole(rows);
}

Shares DiffusionModel::decoding(int64_t height, int64_t width) const {
  const bool led =
      has_products(compute.dtype) && is_small(height, width, 2 * kSmallPicture / std::max<int64_t>(compute.threads, 2));
  return led ? Shares::apart(1) : Shares::whole(1);
}

bool DiffusionModel::is_small(int64_t height, int64_t width, int64_t limit) const {
  return small && compute.device.is_cpu() && height * width * spec.unet.levels[0].channels <= limit;
}

int64_t DiffusionModel::stage(double timestep, int64_t stages) const {
  const auto i = static_cast<int64_t>(std::floor(timestep * static_cast<double>(stages) / spec.noise.train_timesteps));
  return std::clamp<int64_t>(i, 0, stages - 1);
}

}  // namespace swap
