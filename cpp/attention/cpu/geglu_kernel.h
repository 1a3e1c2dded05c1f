// What a CPU kernel of GEGLU's way back is given.
#pragma once

#include <cstdint>

namespace swap::cpu {

// y = a gelu(z), a and z the halves of a row.
struct GegluProblem {
  int64_t rows = 0, width = 0;   // width: of y, a multiple of 16
  const void* halves = nullptr;  // [rows, 2 width]: a, z
  const void* dy = nullptr;      // [rows, width]
  void* out = nullptr;           // [rows, 2 width]: da, dz
};

struct GegluKernel {
  bool bfloat16;
  void (*gradient)(const GegluProblem&, int64_t row);
};

}  // namespace swap::cpu
