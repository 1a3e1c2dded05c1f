// What the CPU kernels of GELU are given: GEGLU's way back, and CLIP's quick GELU there and back.
#pragma once

#include <cstdint>

namespace swap::cpu {

// y = a gelu(z), a and z the halves of a row.
struct GegluProblem {
  int64_t width = 0;             // of y, a multiple of 16
  const void* halves = nullptr;  // [rows, 2 width]: a, z
  const void* dy = nullptr;      // [rows, width]
  void* out = nullptr;           // [rows, 2 width]: da, dz
};

// x sigmoid(1.702 x)
struct QuickGeluProblem {
  const void* x = nullptr;
  const void* dy = nullptr;
  void* out = nullptr;  // y, or dx
};

struct GeluKernel {
  bool bfloat16;
  void (*geglu_gradient)(const GegluProblem&, int64_t row);
  // Values `begin` to `end`, multiples of 16.
  void (*quick)(const QuickGeluProblem&, int64_t begin, int64_t end);
  void (*quick_gradient)(const QuickGeluProblem&, int64_t begin, int64_t end);
};

}  // namespace swap::cpu
