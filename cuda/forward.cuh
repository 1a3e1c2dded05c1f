// The forward kernel. One block: one head, a share of its rows, 64 at a time; K, V and K_r in shared memory.
#pragma once

#include "tile.cuh"

namespace swap::cuda {

// Workspace of Form::loss: the sum of every block, [B, H, blocks].
template <int D, class E, Form F>
__global__ void __launch_bounds__(kThreads) forward_kernel(const ForwardParams params) {
  using T = typename E::type;
  using Place = ForwardShared<D, F>;
  constexpr bool with_loss = F == Form::loss;
  SWAP_SHARED_MEMORY(memory);
  T* const k = reinterpret_cast<T*>(memory + Place::k);
  T* const v = reinterpret_cast<T*>(memory + Place::v);
  T* const k_ref = reinterpret_cast<T*>(memory + Place::k_ref);
  T* const q = reinterpret_cast<T*>(memory + Place::q);
  float* const weights = reinterpret_cast<float*>(memory + Place::weights);

  const Shape& shape = params.shape;
  const int batch = blockIdx.y / shape.heads, head = blockIdx.y % shape.heads;
  const T* const global_v = head_of<T>(params.v, batch, head);
  load_tokens<D>(k, head_of<T>(params.k, batch, head), params.k.row, shape.tokens);
  if constexpr (!Place::streamed) load_tokens<D>(v, global_v, params.v.row, shape.tokens);
  if constexpr (with_loss) {
    if constexpr (!Place::streamed)
      load_tokens<D>(k_ref, head_of<T>(params.k_ref, batch, head), params.k_ref.row, shape.tokens);
    load_weights(weights, params.weights, shape.tokens, 1.f);
  }

  float loss = 0;
  for (int row = blockIdx.x * kRows; row < shape.rows; row += gridDim.x * kRows) {
    const int warp_row = row + warp_id() * 16;
    load_rows<D>(q, head_of<T>(params.q, batch, head) + row * params.q.row, params.q.row, kRows,
                 shape.rows - row - (planted(Plant::row_short) ? 1 : 0));
    if constexpr (Place::streamed)
      load_tokens<D>(k_ref, head_of<T>(params.k_ref, batch, head), params.k_ref.row, shape.tokens);
    wait_for_copies();
    barrier(Plant::forward_no_barrier_after_copies);

    const T* const warp_q = q + warp_id() * 16 * Head<D>::stride;
    Map reference = {}, map = {};
    if constexpr (with_loss) {
      add_row_by_token<D, E>(reference, warp_q, k_ref);
      if constexpr (Place::streamed) {
        barrier(Plant::forward_no_barrier_before_v);
        load_tokens<D>(v, global_v, params.v.row, shape.tokens);
      }
      softmax(reference, shape.tokens, shape.scale);
    }
    add_row_by_token<D, E>(map, warp_q, k);
    softmax(map, shape.tokens, shape.scale);

    if constexpr (with_loss) {
      // Rows beyond the end are zeros in shared memory: both maps are uniform there and differ by exactly nothing.
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const float difference = map[n][c] - reference[n][c];
          loss += weights[n * 8 + lane_column() + c % 2] * difference * difference;
        }
    }
    if constexpr (F == Form::maps) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int r = warp_row + lane_row() + c / 2 * 8;
        if (r >= shape.rows) continue;
        float* const to = params.maps + (int64_t(blockIdx.y) * shape.rows + r) * shape.tokens;
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
          const int token = n * 8 + lane_column() + c % 2;
          if (token < shape.tokens) to[token] = map[n][c];
        }
      }
    }
    if constexpr (Place::streamed) {
      wait_for_copies();
      barrier(Plant::forward_no_barrier_after_v);
    }
    store_map_by_token<D, Head<D>::tiles, E>(map, v, 0, head_of<T>(params.out, batch, head), params.out.row, warp_row,
                                             shape.rows, 1.f);
    barrier(Plant::forward_no_barrier_before_next_tile);
  }

  if constexpr (with_loss) {
    float* const warp_loss = reinterpret_cast<float*>(memory + Place::warp_loss);
    float* const block_loss = params.workspace + blockIdx.y * gridDim.x + blockIdx.x;
#pragma unroll
    for (int step = 16; step; step /= 2) loss += __shfl_xor_sync(0xffffffffu, loss, step);
    if (planted(Plant::racing_loss)) {
      if (threadIdx.x == 0) *block_loss = 0;
      __syncthreads();
      if (lane_id() == 0) *block_loss += loss;
      return;
    }
    if (lane_id() == 0) warp_loss[warp_id()] = loss;
    barrier(Plant::forward_no_barrier_before_sum);
    if (threadIdx.x == 0) {
      float sum = 0;
      for (int i = 0; i < kWarps; ++i) sum += warp_loss[i];
      *block_loss = sum;
    }
  }
}

}  // namespace swap::cuda
