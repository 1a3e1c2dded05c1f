// What forward and backward have in common: rows into shared memory, the products of a warp, softmax in registers.
#pragma once

#include "cp_async.cuh"
#include "ldmatrix.cuh"
#include "mma.cuh"
#include "traits.h"

namespace swap::cuda {

// A warp's 16 rows x 80 tokens in the layout of mma's C: tile n holds tokens 8n to 8n + 7.
using Map = float[kTokenTiles][4];

// threadIdx.x, read where it stands: addresses computed from it are not kept in registers from one round of a loop to
// the next. Without this the widest backward kernels spill.
__device__ __forceinline__ int thread_id_again() {
#if defined(__CUDACC__)
  int id;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(id));
  return id;
#else
  return threadIdx.x;
#endif
}

__device__ __forceinline__ int lane_id() { return thread_id_again() & 31; }
__device__ __forceinline__ int warp_id() { return threadIdx.x >> 5; }
__device__ __forceinline__ int lane_row() { return lane_id() >> 2; }          // of c[0], c[1]; c[2], c[3] are 8 below
__device__ __forceinline__ int lane_column() { return (lane_id() & 3) * 2; }  // of c[0], c[2]

template <class T>
__device__ __forceinline__ const T* head_of(const Rows& rows, int batch, int head) {
  return static_cast<const T*>(rows.data) + batch * rows.batch + head * rows.head;
}
template <class T>
__device__ __forceinline__ T* head_of(const MutableRows& rows, int batch, int head) {
  return static_cast<T*>(rows.data) + batch * rows.batch + head * rows.head;
}

// Starts copying `count` rows (a multiple of 8) to shared memory; those from `valid` on become zeros. Eight consecutive
// threads write the same chunk of eight consecutive rows: no bank conflict, and a warp still reads 64 bytes in a row.
template <int D, class T>
__device__ __forceinline__ void load_rows(T* shared, const T* global, int64_t stride, int count, int valid) {
  constexpr int chunks = Head<D>::chunks;
#pragma unroll 1  // the backward kernels have no register left for copies in flight side by side
  for (int i = thread_id_again(); i < count * chunks; i += kThreads) {
    const int row = i % 8 + i / (8 * chunks) * 8, column = i / 8 % chunks * 8;
    const bool inside = row < valid;
    copy_chunk(shared + row * Head<D>::stride + column, inside ? global + row * stride + column : global, inside);
  }
}

template <int D, class T>
__device__ __forceinline__ void load_tokens(T* shared, const T* global, int64_t stride, int tokens) {
  load_rows<D>(shared, global, stride, planted(Plant::unset_token_tail) ? tokens / 8 * 8 : kTokens, tokens);
}

// Token weights to shared memory, times `factor`; zero beyond the last token.
__device__ __forceinline__ void load_weights(float* shared, const float* weights, int tokens, float factor) {
  for (int i = threadIdx.x; i < kTokens; i += kThreads)
    shared[i] = i < tokens ? (weights ? weights[i] : 1.f) * factor : 0.f;
}

// map[16 x 80] += rows[16 x D] tokens[80 x D]^T; both in shared memory, `rows` the warp's own.
template <int D, class E, class T>
__device__ __forceinline__ void add_row_by_token(Map& map, const T* rows, const T* tokens) {
  constexpr int stride = Head<D>::stride;
  const int l = lane_id();
#pragma unroll
  for (int k = 0; k < Head<D>::k16; ++k) {
    uint32_t a[4];
    load_matrices(a, rows + (l & 15) * stride + k * 16 + (l >> 4) * 8);
#pragma unroll
    for (int n = 0; n < kTokenTiles; n += 2) {
      uint32_t b[4];  // two token tiles
      load_matrices(b, tokens + (n * 8 + (l & 7) + (l >> 4) * 8) * stride + k * 16 + ((l >> 3) & 1) * 8);
      mma_k16<E>(map[n], a, b[0], b[1]);
      mma_k16<E>(map[n + 1], a, b[2], b[3]);
    }
  }
  if constexpr (Head<D>::k8) {
    uint32_t a[2];
    load_matrices(a, rows + (l & 15) * stride + Head<D>::k16 * 16);
#pragma unroll
    for (int n = 0; n < kTokenTiles; n += 2) {
      uint32_t b[2];
      load_matrices(b, tokens + (n * 8 + (l & 15)) * stride + Head<D>::k16 * 16);
      mma_k8<E>(map[n], a[0], a[1], b[0]);
      mma_k8<E>(map[n + 1], a[0], a[1], b[1]);
    }
  }
}

// The map as the A operand of a product over tokens, rounded to the element type.
template <class E>
__device__ __forceinline__ void to_operand(uint32_t (&a)[kTokenTiles / 2][4], const Map& map) {
#pragma unroll
  for (int j = 0; j < kTokenTiles / 2; ++j) {
    a[j][0] = E::pack(map[2 * j][0], map[2 * j][1]);
    a[j][1] = E::pack(map[2 * j][2], map[2 * j][3]);
    a[j][2] = E::pack(map[2 * j + 1][0], map[2 * j + 1][1]);
    a[j][3] = E::pack(map[2 * j + 1][2], map[2 * j + 1][3]);
  }
}

// Two neighbouring columns of 16 rows to global memory, those inside the tensor only.
template <class E, class T>
__device__ __forceinline__ void store_column_pair(T* global, int64_t stride, int row, int rows, int column,
                                                  const float (&c)[4], float factor) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int r = row + lane_row() + 8 * h;
    if (r < rows + (planted(Plant::row_past_the_end) ? 1 : 0))
      store_pair(global + r * stride + column + lane_column(), E::pack(c[2 * h] * factor, c[2 * h + 1] * factor));
  }
}

// global[16 x columns] = factor * map[16 x 80] tokens[80 x columns]: COUNT tiles of 8 columns from tile FIRST on.
template <int D, int COUNT, class E, class T>
__device__ __forceinline__ void store_map_by_token(const Map& map, const T* tokens, int first, T* global,
                                                   int64_t stride, int row, int rows, float factor) {
  const int l = lane_id();
  uint32_t a[kTokenTiles / 2][4];
  to_operand<E>(a, map);
  const T* line = tokens + (l & 15) * Head<D>::stride + first * 8;
#pragma unroll
  for (int n = 0; n + 1 < COUNT; n += 2) {
    float left[4] = {}, right[4] = {};
#pragma unroll
    for (int j = 0; j < kTokenTiles / 2; ++j) {
      uint32_t b[4];
      load_matrices_transposed(b, line + j * 16 * Head<D>::stride + (n + (l >> 4)) * 8);
      mma_k16<E>(left, a[j], b[0], b[1]);
      mma_k16<E>(right, a[j], b[2], b[3]);
    }
    store_column_pair<E>(global, stride, row, rows, (first + n) * 8, left, factor);
    store_column_pair<E>(global, stride, row, rows, (first + n + 1) * 8, right, factor);
  }
  if constexpr (COUNT % 2) {
    float last[4] = {};
#pragma unroll
    for (int j = 0; j < kTokenTiles / 2; ++j) {
      uint32_t b[2];
      load_matrices_transposed(b, line + j * 16 * Head<D>::stride + (COUNT - 1) * 8);
      mma_k16<E>(last, a[j], b[0], b[1]);
    }
    store_column_pair<E>(global, stride, row, rows, (first + COUNT - 1) * 8, last, factor);
  }
}

__device__ __forceinline__ float exp2_fast(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return ::simt::exp2_fast(x);
#endif
}

// Sum or maximum over the four lanes that hold a row.
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// softmax(scale * map) along the tokens, in place; probability zero beyond the last one.
__device__ __forceinline__ void softmax(Map& map, int tokens, float scale) {
  const float log2_scale = scale * 1.4426950408889634f;
  const int end = tokens + (planted(Plant::token_past_the_end) ? 1 : 0);
#pragma unroll
  for (int r = 0; r < 4; r += 2) {
    float largest = -INFINITY;
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n)
#pragma unroll
      for (int c = r; c < r + 2; ++c) {
        if (n * 8 + lane_column() + c % 2 >= end) map[n][c] = -INFINITY;
        largest = fmaxf(largest, map[n][c]);
      }
    largest = row_max(largest);
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n)
#pragma unroll
      for (int c = r; c < r + 2; ++c) {
        // Subtracted before it is multiplied: the largest is exactly 1, and logits of any size cannot overflow.
        map[n][c] = exp2_fast((map[n][c] - largest) * log2_scale);
        sum += map[n][c];
      }
    const float inverse = 1.f / row_sum(sum);
    // Rounded here: contracted with the loss's subtraction, equal maps would differ by what rounding takes.
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n)
#pragma unroll
      for (int c = r; c < r + 2; ++c) map[n][c] = __fmul_rn(map[n][c], inverse);
  }
}

}  // namespace swap::cuda
