// What a CPU kernel of normalisation is given: of groups, pixels of channels, channels-last, with SiLU behind it or
// not; of a layer, rows.
#pragma once

#include "cpu/kernel.h"

namespace swap::cpu {

// y = f(a x + b) with a and b for each sample and channel, f SiLU or the identity. Both passes over the pixels are cut
// into items: runs of pixels of one sample. Sums are taken by item and added in their order.
struct NormProblem {
  int64_t batch = 0, pixels = 0, channels = 0;  // channels: a multiple of 16
  int64_t chunks = 1, chunk_pixels = 0;         // items of one sample; pixels of an item
  bool silu = false;
  const void* x = nullptr;       // [B, pixels, C]
  const void* dy = nullptr;      // the same
  void* out = nullptr;           // y, or dx
  float* sums = nullptr;         // [items][2][C]
  const float* pivot = nullptr;  // [B][C]: what the squares of the forward sums are measured from
  const float* scale = nullptr;  // [B][C]: a
  const float* shift = nullptr;  // [B][C]: b
  // dx = gain dz + slope x + offset, [B][C] each
  const float *gain = nullptr, *slope = nullptr, *offset = nullptr;
};

// y = (x - m) r w + b with the mean m and r = 1 / standard deviation of each row.
struct LayerNormProblem {
  int64_t width = 0;  // a multiple of 16
  float eps = 0;
  const void *x = nullptr, *weight = nullptr, *bias = nullptr;  // [rows, width], [width], [width]
  const void* dy = nullptr;                                     // [rows, width]
  void* out = nullptr;                                          // y, or dx
  float* kept = nullptr;                                        // [rows][2]: m, r
};

struct LayerNormKernel {
  void (*apply)(const LayerNormProblem&, int64_t row);     // y, and m and r
  void (*gradient)(const LayerNormProblem&, int64_t row);  // dx
};

struct NormKernel {
  bool bfloat16;
  void (*sums)(const NormProblem&, int64_t item);           // of x - pivot and its square
  void (*apply)(const NormProblem&, int64_t item);          // y
  void (*gradient_sums)(const NormProblem&, int64_t item);  // of dz and dz x, where z = a x + b
  void (*gradient)(const NormProblem&, int64_t item);       // dx
  LayerNormKernel layer;
  LayerNormKernel wide_layer;  // of bfloat16: x, dx and the weights are float, y and dy are not
};

}  // namespace swap::cpu
