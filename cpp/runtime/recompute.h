// Less memory for more arithmetic (gradient checkpointing): what a function keeps for its gradient is made again when
// it is needed.
#pragma once

#include <ATen/ATen.h>

#include <functional>

namespace swap {

// f(x). For the gradient only x is kept, and f is taken again on the way back: f must give the same numbers each time,
// and all else that it reads must be frozen and live until then.
at::Tensor recompute(std::function<at::Tensor(const at::Tensor&)> f, const at::Tensor& x);

}  // namespace swap
