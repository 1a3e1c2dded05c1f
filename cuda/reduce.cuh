// Sums of the blocks' parts, always in the same order: no atomics, the same bits every time.
#pragma once

#include "element.cuh"
#include "traits.h"

namespace swap::cuda {

struct LossSum {
  const float* partial;  // [B, parts]
  float* loss;           // [B]
  int parts;
  float factor;
};

// One warp a sample.
static __global__ void __launch_bounds__(32) sum_loss_kernel(const LossSum params) {
  const float* const partial = params.partial + int64_t(blockIdx.x) * params.parts;
  float sum = 0;
  for (int i = threadIdx.x; i < params.parts; i += 32) sum += partial[i];
#pragma unroll
  for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (threadIdx.x == 0) params.loss[blockIdx.x] = sum * params.factor;
}

struct GradientSum {
  const float* partial;  // [blocks, B, H, 2, L, d]
  MutableRows dk, dv;
  int blocks, batch, heads, tokens, head_size;
  float scale;  // of dK
};

// One thread for two neighbouring columns; grid: (pairs of a head / threads, B H, dK or dV).
template <class E>
__global__ void __launch_bounds__(kThreads) sum_gradient_kernel(const GradientSum params) {
  using T = typename E::type;
  const int count = params.tokens * params.head_size;
  const int i = (blockIdx.x * kThreads + threadIdx.x) * 2;
  if (i >= count) return;
  const float* partial = params.partial + (int64_t(blockIdx.y) * 2 + blockIdx.z) * count + i;
  const int64_t step = int64_t(params.batch) * params.heads * 2 * count;
  float x = 0, y = 0;
  for (int block = 0; block < params.blocks; ++block, partial += step) {
    x += partial[0];
    y += partial[1];
  }
  const float factor = blockIdx.z == 0 ? params.scale : 1.f;
  const MutableRows& to = blockIdx.z == 0 ? params.dk : params.dv;
  const int64_t place = blockIdx.y / params.heads * to.batch + blockIdx.y % params.heads * to.head +
                        i / params.head_size * to.row + i % params.head_size;
  store_pair(static_cast<T*>(to.data) + place, E::pack(x * factor, y * factor));
}

}  // namespace swap::cuda
