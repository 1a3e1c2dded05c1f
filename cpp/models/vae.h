// AutoencoderKL, both ways.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "models/resnet.h"
#include "runtime/cancel.h"

namespace swap {

// What the VAE computes in. SDXL's leaves fp16's range (its activations reach 1e5 and more): it stays in fp32 there.
// bfloat16 has fp32's range.
inline at::ScalarType vae_dtype(at::ScalarType dtype) { return dtype == at::kHalf ? at::kFloat : dtype; }

class Vae {
 public:
  Vae(const Scope& scope, const VaeSpec& spec);

  // image [B, 3, H, W] in -1..1 -> mean and standard deviation [B, latent, H/f, W/f], fp32, not scaled
  std::pair<at::Tensor, at::Tensor> encode(const at::Tensor& image, const Cancel& cancel) const;
  // latents [B, latent, h, w], not scaled -> image [B, 3, h*f, w*f], fp32, about -1..1
  at::Tensor decode(const at::Tensor& latents, const Cancel& cancel) const;

  const VaeSpec& spec() const { return spec_; }
  at::ScalarType dtype() const { return dtype_; }
  int64_t factor() const { return int64_t(1) << (spec_.channels.size() - 1); }

 private:
  // One head over all pixels.
  struct Attention {
    GroupNorm norm;
    Linear q, k, v, out;
    Attention(const Scope& scope, int64_t channels, int64_t groups);
    at::Tensor operator()(const at::Tensor& x) const;
  };
  struct Middle {
    ResnetBlock first;
    std::optional<Attention> attention;
    ResnetBlock second;
    Middle(const Scope& scope, int64_t channels, const VaeSpec& spec);
    at::Tensor operator()(const at::Tensor& x, const Cancel& cancel) const;
  };
  struct Level {
    std::vector<ResnetBlock> resnets;
    Conv2d resample;  // undefined at the last level
  };
  struct Half {
    Conv2d conv_in;
    std::vector<Level> levels;
    std::optional<Middle> middle;
    GroupNorm norm_out;
    Conv2d conv_out;
  };

  VaeSpec spec_;
  at::ScalarType dtype_;
  Half encoder_, decoder_;
  Conv2d quant_, post_quant_;
};

}  // namespace swap
