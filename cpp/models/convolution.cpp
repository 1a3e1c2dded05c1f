#include "models/convolution.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/parallel.h"
#include "models/linear.h"
#include "runtime/fresh.h"
#include "runtime/steps.h"

namespace swap {
namespace {

// In oneDNN a wide convolution over few pixels spends its time on packing its weights anew for each call: 59 MB for 64
// pixels at the bottom of SD 1.5. As a product with the pixels' neighbourhoods the weights are read once, as they lie.
constexpr int64_t kFewPixels = 512, kWeightsPerPixel = 8192;
// Convolutions in steps of two are such products where the product is our own; of the neighbourhoods so many numbers.
constexpr int64_t kNeighbours = int64_t(1) << 24;

// Of a convolution of 3 x 3, or 1 x 1, over [B, C, h, w].
struct Moves {
  int64_t stride, padding;

  int64_t outputs(int64_t size, int64_t kernel) const { return (size + 2 * padding - kernel) / stride + 1; }
};

// `some`: x, or the gradient of the output, whose type and device decide.
bool by_own_kernel(const at::Tensor& some, const at::Tensor& weight, Moves moves, bool small_model) {
  const int64_t kernel = weight.size(2);
  return kernel == weight.size(3) && (kernel == 1 || kernel == 3) && moves.stride == 1 && moves.padding == kernel / 2 &&
         (small_model ? product_takes_picture(some, weight) : product_takes(some, weight));
}

// [out, in, 3, 3] channels-last -> [out, 9 in], a view
at::Tensor rows(const at::Tensor& weight) { return weight.permute({0, 2, 3, 1}).reshape({weight.size(0), -1}); }

bool by_neighbourhoods(at::IntArrayRef x, const at::Tensor& weight, Moves moves, const at::Tensor& some) {
  if (!weight.device().is_cpu() || weight.size(2) != 3 || weight.size(3) != 3 || moves.padding > 1) return false;
  const int64_t pixels = x[0] * moves.outputs(x[2], 3) * moves.outputs(x[3], 3);
  if (pixels < 1) return false;
  if (moves.stride > 1) return 9 * pixels * x[1] <= kNeighbours && product_takes(some, weight);
  return moves.padding == 1 && pixels <= kFewPixels && weight.numel() >= kWeightsPerPixel * pixels;
}

// [B, C, h, w] <-> [B h w, C], views where the tensor is channels-last
at::Tensor pixels(const at::Tensor& x) { return x.permute({0, 2, 3, 1}).reshape({-1, x.size(1)}); }
at::Tensor image(const at::Tensor& pixels, int64_t B, int64_t h, int64_t w) {
  return pixels.view({B, h, w, pixels.size(1)}).permute({0, 3, 1, 2});
}

// Every output's 3 x 3 neighbourhood, with zeros beyond the edges: [B, C, h, w] -> [B h' w', 9 C]
at::Tensor neighbourhoods(const at::Tensor& x, Moves moves) {
  const auto dense = x.expect_contiguous(at::MemoryFormat::ChannelsLast);
  const int64_t C = x.size(1), h = x.size(2), w = x.size(3);
  const int64_t rows = moves.outputs(h, 3), columns = moves.outputs(w, 3);
  const auto result = fresh(x, {x.size(0) * rows * columns, 9 * C});
  const int64_t pixel = C * static_cast<int64_t>(x.element_size());  // bytes
  const auto* const from = static_cast<const char*>(dense->const_data_ptr());
  auto* const all = static_cast<char*>(result.mutable_data_ptr());
  cpu::run_rows(x.size(0) * rows, columns * 9 * C, [&](int64_t row) {
    const int64_t top = row % rows * moves.stride - moves.padding;
    for (int64_t column = 0; column < columns; ++column) {
      // Of three pixels side by side those from `first` up to `last` lie within the picture.
      const int64_t left = column * moves.stride - moves.padding;
      const int64_t first = std::max<int64_t>(0, -left), last = std::min<int64_t>(3, w - left);
      char* to = all + (row * columns + column) * 9 * pixel;
      for (int64_t y = top; y < top + 3; ++y, to += 3 * pixel) {
        const bool within = 0 <= y && y < h;
        if (!within || last - first < 3) std::memset(to, 0, 3 * pixel);
        if (!within) continue;
        const char* const line = from + (row / rows * h + y) * w * pixel;
        std::memcpy(to + first * pixel, line + (left + first) * pixel, (last - first) * pixel);
      }
    }
  });
  return result;
}

// The way back: what every neighbourhood says of a pixel is added up, in fp32. [B h' w', 9 C] -> [B, C, h, w]
template <typename T>
void add_up(const T* parts, T* out, at::IntArrayRef shape, Moves moves) {
  const int64_t C = shape[1], h = shape[2], w = shape[3];
  const int64_t rows = moves.outputs(h, 3), columns = moves.outputs(w, 3);
  cpu::run_parallel(shape[0] * h, [&](int64_t line, int64_t) {
    std::vector<float> sum(C);
    const int64_t sample = line / h, y = line % h;
    for (int64_t x = 0; x < w; ++x) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int64_t tap = 0; tap < 9; ++tap) {
        // The pixel is tap (i, j) of the output at (y + padding - i, x + padding - j) / stride.
        const int64_t down = y + moves.padding - tap / 3, right = x + moves.padding - tap % 3;
        if (down < 0 || right < 0 || down % moves.stride != 0 || right % moves.stride != 0) continue;
        const int64_t row = down / moves.stride, column = right / moves.stride;
        if (row >= rows || column >= columns) continue;
        const T* part = parts + (((sample * rows + row) * columns + column) * 9 + tap) * C;
        for (int64_t c = 0; c < C; ++c) sum[c] += static_cast<float>(part[c]);
      }
      std::transform(sum.begin(), sum.end(), out + (line * w + x) * C,
                     [](float value) { return static_cast<T>(value); });
    }
  });
}

}  // namespace

at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, int64_t stride,
                    int64_t padding, PackedWeights* packed, const at::Tensor& added) {
  check_no_graph(x);
  if (added.defined()) check_no_graph(added);
  const Moves moves{stride, padding};
  if (by_own_kernel(x, weight, moves, packed != nullptr)) return product_convolution(x, weight, bias, packed, added);
  if (!by_neighbourhoods(x.sizes(), weight, moves, x)) {
    return plus(at::conv2d(x, weight, bias, {stride, stride}, {padding, padding}), added);
  }
  const auto y = linear(neighbourhoods(x, moves), rows(weight), bias);
  return plus(image(y, x.size(0), moves.outputs(x.size(2), 3), moves.outputs(x.size(3), 3)), added);
}

at::Tensor convolution_gradient(const at::Tensor& dy, at::IntArrayRef shape, const at::Tensor& weight, int64_t stride,
                                int64_t padding, PackedWeights* packed) {
  const Moves moves{stride, padding};
  if (by_own_kernel(dy, weight, moves, packed != nullptr)) return product_convolution_gradient(dy, weight, packed);
  if (!by_neighbourhoods(shape, weight, moves, dy)) {
    // Only the shape and the layout of the input are looked at: its memory is never touched.
    const auto input = at::empty(shape, dy.options(), at::MemoryFormat::ChannelsLast);
    return std::get<0>(at::convolution_backward(dy, input, weight, at::IntArrayRef{weight.size(0)},
                                                {moves.stride, moves.stride}, {moves.padding, moves.padding}, {1, 1},
                                                false, {0, 0}, 1, {true, false, false}));
  }
  const auto parts = linear_gradient(pixels(dy), rows(weight));
  const auto result = fresh(dy, shape, at::MemoryFormat::ChannelsLast);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, parts.scalar_type(), "convolution_gradient", [&] {
    add_up(parts.const_data_ptr<scalar_t>(), result.data_ptr<scalar_t>(), shape, moves);
  });
  return result;
}

}  // namespace swap
