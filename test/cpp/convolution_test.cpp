// The convolution against LibTorch's own, with the gradient of its input.
#include "models/convolution.h"

#include <torch/csrc/autograd/autograd.h>

#include <vector>

#include "checks.h"
#include "difference.h"
#include "models/layers.h"
#include "node.h"

namespace {

struct Case {
  int64_t batch, in, out, height, width, kernel, stride, padding;
};

void compare(const Case& c, at::ScalarType dtype, double tolerance) {
  CAPTURE(c.in);
  CAPTURE(c.height);
  CAPTURE(dtype == at::kFloat);
  const auto channels_last = at::MemoryFormat::ChannelsLast;
  const auto random = [&](at::IntArrayRef shape) { return at::randn(shape).to(dtype).contiguous(channels_last); };
  const auto weight = random({c.out, c.in, c.kernel, c.kernel}), bias = at::randn({c.out}).to(dtype);
  const auto x = random({c.batch, c.in, c.height, c.width}).requires_grad_();
  // The reference in fp32, on the same rounded numbers.
  const auto exact_x = x.detach().to(at::kFloat).requires_grad_();
  const auto exact =
      at::conv2d(exact_x, weight.to(at::kFloat), bias.to(at::kFloat), {c.stride, c.stride}, {c.padding, c.padding});

  swap::Conv2d layer;
  layer.weight = weight, layer.bias = bias, layer.stride = c.stride, layer.padding = c.padding;
  const auto y = as_block(x, layer);
  CHECK((y.scalar_type() == dtype));
  CHECK(y.is_contiguous(channels_last));
  CHECK(difference(y, exact) < tolerance);

  const auto upstream = random(y.sizes());
  const auto gradient = torch::autograd::grad({y}, {x}, {upstream})[0];
  const auto exact_gradient = torch::autograd::grad({exact}, {exact_x}, {upstream.to(at::kFloat)})[0];
  CHECK((gradient.scalar_type() == dtype));
  CHECK(difference(gradient, exact_gradient) < tolerance);

  c10::NoGradGuard no_grad;
  CHECK(at::equal(swap::convolve(x, weight, bias, c.stride, c.padding), y));
}

TEST_CASE("a convolution is LibTorch's, forth and back") {
  const std::vector<Case> cases{
      {2, 32, 48, 9, 12, 3, 1, 1},     // an ordinary one
      {1, 32, 48, 10, 10, 3, 2, 1},    // downsampling
      {2, 32, 64, 10, 10, 3, 2, 1},    // the same by our own product
      {2, 64, 32, 9, 12, 3, 2, 0},     // without a border, as the VAE and some U-Nets have it
      {1, 32, 32, 3, 3, 3, 2, 0},      // one output
      {1, 32, 48, 7, 7, 1, 1, 0},      // 1x1
      {1, 640, 736, 8, 8, 3, 1, 1},    // wide, over few pixels: by neighbourhoods, or our own kernel
      {2, 768, 640, 5, 11, 3, 1, 1},   // the same, neither square nor alone
      {3, 640, 736, 1, 2, 3, 1, 1},    // nearly all of the neighbourhood lies outside
      {1, 640, 736, 8, 8, 3, 2, 1},    // wide, but by steps of two
      {2, 640, 736, 16, 17, 3, 1, 1},  // wide, over too many pixels
  };
  for (const auto& c : cases) {
    compare(c, at::kFloat, 1e-5);
    compare(c, at::kBFloat16, 1e-2);
  }
}

}  // namespace
