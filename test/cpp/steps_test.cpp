// The way back through a block against LibTorch's own graph.
#include "runtime/steps.h"

#include <torch/csrc/autograd/autograd.h>

#include "checks.h"
#include "node.h"

using namespace swap;

namespace {

at::Tensor leaf(at::IntArrayRef shape) { return at::randn(shape, at::kDouble).requires_grad_(); }

// x^2, which keeps x
at::Tensor square(const at::Tensor& x, Steps* steps) {
  if (noted(steps)) steps->then([x](const at::Tensor& dy) { return 2 * x * dy; });
  return x * x;
}

}  // namespace

TEST_CASE("a block's gradient is that of its layers, with residuals within each other") {
  const auto x = leaf({3, 4}), dy = at::randn({3, 4}, at::kDouble);
  const auto block = [](const at::Tensor& input, Steps* steps) {
    if (steps) steps->fork();
    auto y = square(input, steps);
    if (steps) steps->fork();
    const auto inner = square(y, steps);
    if (steps) steps->join([](const at::Tensor& slope) { return 3 * slope; });
    y = inner + 3 * y;
    y = differentiate(y, steps, [](const at::Tensor& z) { return z.sin(); });
    if (steps) steps->join();
    return y + input;
  };
  const auto plain = [&] {
    const auto y = x * x;
    return (y * y + 3 * y).sin() + x;
  };
  const auto y = as_block(x, block);
  CHECK(at::allclose(y, plain()));
  const auto expected = torch::autograd::grad({plain()}, {x}, {dy})[0];
  CHECK(at::allclose(torch::autograd::grad({y}, {x}, {dy})[0], expected));
  // Taken again on the way back.
  const auto sparing = as_block(x, [&](const at::Tensor& input, Steps* steps) {
    return noted(steps) ? steps->again(input, block) : block(input, steps);
  });
  CHECK(at::equal(sparing, y));
  CHECK(at::allclose(torch::autograd::grad({sparing}, {x}, {dy})[0], expected));
  const auto once = as_block(x, block);
  torch::autograd::grad({once}, {x}, {dy}, /*retain_graph=*/true);
  CHECK_THROWS(torch::autograd::grad({once}, {x}, {dy}));
  CHECK_THROWS(check_no_graph(x));
  c10::NoGradGuard no_grad;
  CHECK(!as_block(x, block).requires_grad());
}

TEST_CASE("what comes before the first input with a gradient has no step; losses have slopes of their own") {
  const auto x = at::randn({2, 3}, at::kDouble), states = leaf({2, 3});
  const auto dy = at::randn({2, 3}, at::kDouble);
  int64_t kept = 0;
  const auto block = [&](const at::Tensor& input, Steps* steps) {
    const auto before = [&](const at::Tensor& value) {
      if (noted(steps)) ++kept;
      return square(value, steps);
    };
    if (steps) steps->fork();
    auto y = before(input);
    if (steps) {
      CHECK(!steps->live);
      steps->live = true;
      steps->then_all([y, states](Carried& carried) {
        carried.k_states = carried.x * y;
        if (carried.losses[1].defined())
          carried.k_states = carried.k_states + carried.losses[1].unsqueeze(1) * 2 * states;
        carried.x = at::Tensor();
      });
    }
    const auto z = y * states.detach();
    BlockResult result{square(z, steps), {at::Tensor(), states.detach().square().sum(1)}};
    if (steps) steps->join();
    result.y = result.y + input;
    return result;
  };
  const auto make = [&] { return as_node(block, x, states); };
  const auto plain = (x * x * states).square() + x;
  const auto result = make();
  CHECK(kept == 0);
  CHECK(!result.losses[0].defined());
  CHECK(at::allclose(result.y, plain));
  const auto gradient = [&](const at::Tensor& loss) { return torch::autograd::grad({loss}, {states})[0]; };
  const auto first = gradient((result.y * dy).sum()), second = gradient(make().losses[1].sum());
  CHECK(at::allclose(first, gradient((((x * x * states).square() + x) * dy).sum())));
  CHECK(at::allclose(second, 2 * states));
  const auto both = make();
  CHECK(at::allclose(gradient((both.y * dy).sum() + both.losses[1].sum()), first + second));
}
