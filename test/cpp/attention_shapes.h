// The cases of the op, one list for every make of it: eager, the CPU kernels, the CUDA kernels on the emulator and on a
// GPU. Without LibTorch, so that test/simt runs the same list.
#pragma once

#include <cstdint>
#include <vector>

namespace attention_cases {

struct Shape {
  int64_t batch, heads, queries, tokens, width;
  double gain = 1;  // of Q
  bool reference = true, weighted = true, per_sample = false;
  double dout = 1, dloss = 1;
  double weight = 1;  // what the tokens' weights are multiplied by
};

inline const std::vector<Shape> kShapes = {
    {1, 2, 1, 77, 40},
    {1, 2, 15, 77, 40},
    {2, 2, 16, 77, 64},
    {1, 3, 17, 77, 80},
    {1, 2, 64, 77, 160},
    {2, 8, 64, 77, 160, 1, true, true, true},
    {1, 2, 4096, 77, 40},
    {1, 2, 1025, 76, 80, 3},
    {1, 1, 333, 80, 64},
    {1, 2, 129, 1, 40},
    {1, 2, 65, 2, 32},
    {4, 4, 256, 77, 32},
    {2, 2, 65, 1, 160},
    {2, 1, 41, 15, 24},
    {1, 1, 63, 16, 32},
    {1, 2, 97, 17, 40},
    {1, 2, 100, 33, 48},
    {1, 2, 100, 49, 96},
    {1, 2, 77, 77, 7},
    {1, 2, 50, 77, 1},
    {1, 1, 50, 77, 200},
    {1, 1, 65, 80, 160},
    {2, 1, 17, 2, 160},
    {1, 2, 33, 76, 64},
    {1, 2, 130, 77, 40, 30},                             // maps that are nearly one-hot
    {1, 2, 130, 77, 40, 1, true, false, true},           // no weights
    {2, 2, 130, 77, 64, 1, false},                       // the inference form
    {2, 2, 130, 77, 40, 1, true, true, false, 1, 0},     // dloss = 0
    {2, 2, 130, 77, 40, 1, true, true, false, 0, 1},     // dO = 0
    {2, 2, 130, 77, 40, 1, true, true, false, 1, 1, 0},  // w = 0
};

}  // namespace attention_cases
