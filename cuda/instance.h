// The kernels of one head size and element type; defined in instances/.
#pragma once

#include "params.h"

namespace swap::cuda {

struct Bf16;
struct Fp16;

template <int D, class E>
struct Instance {
  // True where the current device has its kernels, and the shared memory that they take.
  static bool runs();
  static void forward(const ForwardParams& params, Form form, Stream stream);
  static void backward(const BackwardParams& params, Stream stream);
};

}  // namespace swap::cuda
