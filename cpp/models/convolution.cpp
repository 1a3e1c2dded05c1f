#include "models/convolution.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <vector>

#include "cpu/parallel.h"

namespace swap {
namespace {

// In oneDNN a wide convolution over few pixels spends its time on packing its weights anew for each call: 59 MB for 64
// pixels at the bottom of SD 1.5. As a product with the pixels' neighbourhoods the weights are read once, as they lie.
constexpr int64_t kFewPixels = 512, kWeightsPerPixel = 8192;

bool by_own_kernel(const at::Tensor& x, const at::Tensor& weight, int64_t stride, int64_t padding) {
  const int64_t kernel = weight.size(2);
  return kernel == weight.size(3) && (kernel == 1 || kernel == 3) && stride == 1 && padding == kernel / 2 &&
         product_takes(x, weight);
}

bool by_neighbourhoods(at::IntArrayRef x, const at::Tensor& weight, int64_t stride, int64_t padding) {
  const int64_t pixels = x[0] * x[2] * x[3];
  return weight.device().is_cpu() && weight.size(2) == 3 && stride == 1 && padding == 1 && pixels <= kFewPixels &&
         weight.numel() >= kWeightsPerPixel * pixels;
}

// [out, in, 3, 3] channels-last -> [out, 9 in], a view
at::Tensor rows(const at::Tensor& weight) { return weight.permute({0, 2, 3, 1}).reshape({weight.size(0), -1}); }

// [B, C, h, w] <-> [B h w, C], views where the tensor is channels-last
at::Tensor pixels(const at::Tensor& x) { return x.permute({0, 2, 3, 1}).reshape({-1, x.size(1)}); }
at::Tensor image(const at::Tensor& pixels, at::IntArrayRef shape) {
  return pixels.view({shape[0], shape[2], shape[3], pixels.size(1)}).permute({0, 3, 1, 2});
}

// Every pixel's 3x3 neighbourhood: [B, C, h, w] -> [B h w, 9 C]
at::Tensor neighbourhoods(const at::Tensor& x) {
  const auto padded = at::constant_pad_nd(x.permute({0, 2, 3, 1}), {0, 0, 1, 1, 1, 1}).contiguous();
  const auto s = padded.strides();
  const int64_t B = x.size(0), C = x.size(1), h = x.size(2), w = x.size(3);
  return padded.as_strided({B, h, w, 3, 3, C}, {s[0], s[1], s[2], s[1], s[2], 1}).reshape({B * h * w, 9 * C});
}

// The way back: what every neighbourhood says of a pixel is added up, in fp32. [B h w, 9 C] -> [B, C, h, w]
template <typename T>
void add_up(const T* parts, T* out, int64_t B, int64_t C, int64_t h, int64_t w) {
  cpu::run_parallel(B * h, [&](int64_t line, int64_t) {
    std::vector<float> sum(C);
    for (int64_t pixel = line * w; pixel < (line + 1) * w; ++pixel) {
      const int64_t column = pixel % w, row = pixel / w % h;
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int64_t tap = 0; tap < 9; ++tap) {
        // The pixel is tap (i, j) of the neighbourhood of (row + 1 - i, column + 1 - j).
        const int64_t down = 1 - tap / 3, right = 1 - tap % 3;
        if (row + down < 0 || row + down >= h || column + right < 0 || column + right >= w) continue;
        const T* part = parts + ((pixel + down * w + right) * 9 + tap) * C;
        for (int64_t c = 0; c < C; ++c) sum[c] += static_cast<float>(part[c]);
      }
      std::transform(sum.begin(), sum.end(), out + pixel * C, [](float value) { return static_cast<T>(value); });
    }
  });
}

at::Tensor forward_pass(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int64_t stride,
                        int64_t padding, const PackedWeights::Ptr& packed) {
  if (by_own_kernel(x, weight, stride, padding)) return product_convolution(x, weight, bias, packed);
  if (!by_neighbourhoods(x.sizes(), weight, stride, padding)) {
    return at::conv2d(x, weight, bias, {stride, stride}, {padding, padding});
  }
  return image(at::linear(neighbourhoods(x), rows(weight), bias), x.sizes());
}

at::Tensor input_gradient(const at::Tensor& gradient, at::IntArrayRef shape, const at::Tensor& weight, int64_t stride,
                          int64_t padding, const PackedWeights::Ptr& packed) {
  if (by_own_kernel(gradient, weight, stride, padding)) return product_convolution_gradient(gradient, weight, packed);
  if (!by_neighbourhoods(shape, weight, stride, padding)) {
    // Only the shape and the layout of the input are looked at: its memory is never touched.
    const auto input = at::empty(shape, gradient.options(), at::MemoryFormat::ChannelsLast);
    return std::get<0>(at::convolution_backward(gradient, input, weight, at::IntArrayRef{weight.size(0)},
                                                {stride, stride}, {padding, padding}, {1, 1}, false, {0, 0}, 1,
                                                {true, false, false}));
  }
  const auto parts = at::mm(pixels(gradient), rows(weight));
  const auto result = at::empty(shape, gradient.options(), at::MemoryFormat::ChannelsLast);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, parts.scalar_type(), "input_gradient", [&] {
    add_up(parts.const_data_ptr<scalar_t>(), result.data_ptr<scalar_t>(), shape[0], shape[1], shape[2], shape[3]);
  });
  return result;
}

// LibTorch's own would keep the input for the gradient of the weights, which nobody asks for.
struct Convolution : torch::autograd::Function<Convolution> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const at::Tensor& bias, int64_t stride, int64_t padding, const PackedWeights::Ptr& packed) {
    context->save_for_backward({weight});
    save_packed(*context, packed);
    context->saved_data["shape"] = x.sizes().vec();
    context->saved_data["stride"] = stride;
    context->saved_data["padding"] = padding;
    return forward_pass(x, weight, bias, stride, padding, packed);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto& saved = context->saved_data;
    const auto shape = saved["shape"].toIntVector();
    const auto weight = context->get_saved_variables()[0];
    const auto result = input_gradient(gradients[0], shape, weight, saved["stride"].toInt(), saved["padding"].toInt(),
                                       saved_packed(*context));
    return {result, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int64_t stride,
                    int64_t padding, const PackedWeights::Ptr& packed) {
  if (c10::GradMode::is_enabled() && x.requires_grad()) {
    return Convolution::apply(x, weight, bias, stride, padding, packed);
  }
  return forward_pass(x, weight, bias, stride, padding, packed);
}

}  // namespace swap
