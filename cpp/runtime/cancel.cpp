#include "runtime/cancel.h"

#include <torch/csrc/autograd/autograd.h>

namespace swap {
std::vector<at::Tensor> gradients(const at::Tensor& loss, const std::vector<at::Tensor>& leaves) {
  using torch::autograd::grad;
  try {
    return grad({loss}, leaves, {}, /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/true);
  } catch (...) {
    // What an aborted pass had queued, and the activations that hang on it, LibTorch keeps until the thread's next
    // pass.
    auto x = at::zeros({});
    x.set_requires_grad(true);
    grad({x * 1}, {x});
    throw;
  }
}

}  // namespace swap
