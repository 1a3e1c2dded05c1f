#include "models/gelu.h"

#include <algorithm>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "runtime/fresh.h"
#include "runtime/record.h"

namespace swap {
namespace {

using cpu::GegluProblem;
using cpu::GeluKernel;
using cpu::QuickGeluProblem;

// Of an item: less is not worth waking a thread for.
constexpr int64_t kValues = int64_t(1) << 15;

// For runs of `run` values.
const GeluKernel* find_kernel(const at::Tensor& x, int64_t run) {
  const auto dtype = x.scalar_type();
  if ((dtype != at::kFloat && dtype != at::kBFloat16) || !x.device().is_cpu() || run % 16 != 0 || x.numel() == 0 ||
      !x.is_contiguous()) {
    return nullptr;
  }
  const auto& found = cpu::gelu_kernels(dtype == at::kBFloat16);
  return found.empty() ? nullptr : found.front();
}

void run(void (*pass)(const QuickGeluProblem&, int64_t, int64_t), const QuickGeluProblem& p, const at::Tensor& x) {
  const int64_t n = x.numel();
  SWAP_RECORD("swap::gelu", x);
  cpu::run_parallel(cpu::divide_up(n, kValues),
                    [&](int64_t item, int64_t) { pass(p, item * kValues, std::min(n, (item + 1) * kValues)); });
}

at::Tensor compute(const GeluKernel& kernel, const at::Tensor& x) {
  const auto y = fresh(x, x.sizes());
  run(kernel.quick, {x.const_data_ptr(), nullptr, y.mutable_data_ptr()}, x);
  return y;
}

at::Tensor input_gradient(const GeluKernel& kernel, const at::Tensor& x, const at::Tensor& dy) {
  const auto dense = dy.contiguous(), dx = fresh(x, x.sizes());
  run(kernel.quick_gradient, {x.const_data_ptr(), dense.const_data_ptr(), dx.mutable_data_ptr()}, x);
  return dx;
}

}  // namespace

at::Tensor quick_gelu(const at::Tensor& x, Steps* steps) {
  check_no_graph(x);
  const auto* kernel = find_kernel(x, x.numel());
  if (!kernel) {
    return differentiate(x, steps, [](const at::Tensor& input) { return input * at::sigmoid(input * 1.702); });
  }
  if (noted(steps)) steps->then([=](const at::Tensor& dy) { return input_gradient(*kernel, x, dy); });
  return compute(*kernel, x);
}

at::Tensor gelu(const at::Tensor& x, Steps* steps) {
  check_no_graph(x);
  if (noted(steps)) steps->then([=](const at::Tensor& dy) { return at::gelu_backward(dy, x); });
  return at::gelu(x);
}

at::Tensor geglu_gradient(const at::Tensor& halves, const at::Tensor& dy) {
  auto gradient = fresh(halves, halves.sizes());
  if (const auto* kernel = find_kernel(halves, dy.size(-1))) {
    SWAP_RECORD("swap::gelu", halves);
    const auto dense = dy.contiguous();
    const GegluProblem p{dense.size(-1), halves.const_data_ptr(), dense.const_data_ptr(), gradient.mutable_data_ptr()};
    cpu::run_rows(dense.numel() / p.width, p.width, [&](int64_t row) { kernel->geglu_gradient(p, row); });
    return gradient;
  }
  const auto parts = halves.chunk(2, -1);
  auto gradients = gradient.chunk(2, -1);
  at::gelu_backward_out(gradients[1], dy * parts[0], parts[1]);
  const auto gate = at::gelu(parts[1]);
  at::mul_out(gradients[0], dy, gate);
  return gradient;
}

}  // namespace swap
