// Cancellation: a flag that is polled at every block, in the forward pass and (`check` in runtime/steps.h) in the
// backward pass.
#pragma once

#include <ATen/ATen.h>

#include <atomic>
#include <vector>

#include "runtime/error.h"

namespace swap {

class Cancel {
 public:
  explicit Cancel(const std::atomic<bool>* flag = nullptr) : flag_(flag) {}

  void check() const {
    if (flag_ && flag_->load(std::memory_order_relaxed)) throw Cancelled();
  }

 private:
  const std::atomic<bool>* flag_;
};

// Gradients of `loss` for `leaves`; undefined where it does not depend on one. Frees the graph, however it ends.
std::vector<at::Tensor> gradients(const at::Tensor& loss, const std::vector<at::Tensor>& leaves);

}  // namespace swap
