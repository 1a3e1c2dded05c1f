// What reading weights does to numbers of 16 bits, sixty-four bytes at a time.
#pragma once

#include <cstdint>

namespace swap::cpu {

struct HalvesKernel {
  // float16 to bfloat16, rounded to the nearest, ties to even.
  void (*to_bfloat16)(const uint16_t* from, uint16_t* to, int64_t n);
  // One output channel of a 3 x 3 convolution, [channels, 9] to [9, channels]; channels: a multiple of 32.
  void (*turn)(const uint16_t* from, uint16_t* to, int64_t channels);
};

}  // namespace swap::cpu
