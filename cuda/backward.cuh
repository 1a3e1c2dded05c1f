// The backward kernel: dQ, and each block's share of dK and dV. A_t and A_r are computed again from Q.
//
//   dA = 2 dloss w (A_t - A_r) / H + dO V^T      the first part is what the second one's sums start from
//   dS = A_t (dA - rowsum(A_t dA))
//   dQ = s dS K,   dK = s dS^T Q,   dV = A_t^T dO
//
// The first products have a warp for every 16 rows. dK and dV sum over rows: A_t and dS go through shared memory, two
// warps take dV and two dK, every other tile of 8 columns each, and keep the sums in registers until the block's last
// row. For d = 160 two blocks (grid.z) take half of the columns each.
#pragma once

#include "tile.cuh"

namespace swap::cuda {

// Workspace: [blocks, B, H, 2, L, d], dK (without the factor s) and dV of every block.
template <int D, class E, bool WithLoss>
__global__ void __launch_bounds__(kThreads, 2) backward_kernel(const BackwardParams params) {
  using T = typename E::type;
  using Place = BackwardShared<D, WithLoss>;
  constexpr int columns = Head<D>::tiles / Head<D>::split;  // tiles of 8 that this block has of dQ, dK, dV
  constexpr int share = (columns + 1) / 2;                  // of these, for each warp of dK, dV
  SWAP_SHARED_MEMORY(memory);
  T* const k = reinterpret_cast<T*>(memory + Place::k);
  T* const v = reinterpret_cast<T*>(memory + Place::v);
  T* const k_ref = reinterpret_cast<T*>(memory + Place::k_ref);
  T* const q = reinterpret_cast<T*>(memory + Place::q);
  T* const dout = reinterpret_cast<T*>(memory + Place::dout);
  T* const a = reinterpret_cast<T*>(memory + Place::a);
  T* const ds = reinterpret_cast<T*>(memory + Place::ds);
  float* const weights = reinterpret_cast<float*>(memory + Place::weights);

  const Shape& shape = params.shape;
  const int batch = blockIdx.y / shape.heads, head = blockIdx.y % shape.heads;
  const int first = blockIdx.z * columns;
  const int l = lane_id();
  const T* const global_v = head_of<T>(params.v, batch, head);
  load_tokens<D>(k, head_of<T>(params.k, batch, head), params.k.row, shape.tokens);
  if constexpr (!Place::streamed) load_tokens<D>(v, global_v, params.v.row, shape.tokens);
  if constexpr (WithLoss) {
    if constexpr (!Place::streamed)
      load_tokens<D>(k_ref, head_of<T>(params.k_ref, batch, head), params.k_ref.row, shape.tokens);
    load_weights(weights, params.weights, shape.tokens, 2.f * params.dloss[batch] / shape.heads);
  }

  const bool makes_dk = warp_id() >= kWarps / 2;
  const int own = warp_id() % 2;  // the first of this warp's column tiles
  float sums[share][kTokenTiles / 2][4] = {};
  for (int row = blockIdx.x * kRows; row < shape.rows; row += gridDim.x * kRows) {
    const int warp_row = row + warp_id() * 16;
    load_rows<D>(q, head_of<T>(params.q, batch, head) + row * params.q.row, params.q.row, kRows, shape.rows - row);
    load_rows<D>(dout, params.dout.data ? head_of<T>(params.dout, batch, head) + row * params.dout.row : global_v,
                 params.dout.row, kRows, params.dout.data ? shape.rows - row : 0);
    if constexpr (Place::streamed && WithLoss)
      load_tokens<D>(k_ref, head_of<T>(params.k_ref, batch, head), params.k_ref.row, shape.tokens);
    if constexpr (Place::streamed && !WithLoss) load_tokens<D>(v, global_v, params.v.row, shape.tokens);
    wait_for_copies();
    barrier(Plant::backward_no_barrier_after_copies);

    const T* const warp_q = q + warp_id() * 16 * Head<D>::stride;
    Map map = {}, gradient = {};
    if constexpr (WithLoss) {
      add_row_by_token<D, E>(gradient, warp_q, k_ref);
      if constexpr (Place::streamed) {
        barrier(Plant::backward_no_barrier_before_v);
        load_tokens<D>(v, global_v, params.v.row, shape.tokens);
      }
      softmax(gradient, shape.tokens, shape.scale);
    }
    add_row_by_token<D, E>(map, warp_q, k);
    softmax(map, shape.tokens, shape.scale);
    if constexpr (WithLoss) {
      // Zero for rows beyond the end, where both maps are uniform.
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          gradient[n][c] = weights[n * 8 + lane_column() + c % 2] * (map[n][c] - gradient[n][c]);
        }
      if constexpr (Place::streamed) {
        wait_for_copies();
        barrier(Plant::backward_no_barrier_after_v);
      }
    }
    add_row_by_token<D, E>(gradient, dout + warp_id() * 16 * Head<D>::stride, v);
    if constexpr (Place::streamed) {
      barrier(Plant::backward_no_barrier_before_maps);
    }

    // dA becomes dS; both maps go to shared memory.
#pragma unroll
    for (int r = 0; r < 4; r += 2) {
      float inner = 0;
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) inner += map[n][r] * gradient[n][r] + map[n][r + 1] * gradient[n][r + 1];
      inner = row_sum(inner);
      const int place = (warp_id() * 16 + lane_row() + r * 4) * kMapStride + lane_column();
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
        for (int c = r; c < r + 2; ++c) gradient[n][c] = map[n][c] * (gradient[n][c] - inner);
        store_pair(a + place + n * 8, E::pack(map[n][r], map[n][r + 1]));
        store_pair(ds + place + n * 8, E::pack(gradient[n][r], gradient[n][r + 1]));
      }
    }
    store_map_by_token<D, columns, E>(gradient, k, first, head_of<T>(params.dq, batch, head), params.dq.row, warp_row,
                                      shape.rows, shape.scale);
    barrier(Plant::backward_no_barrier_before_products);

    const T* const left = makes_dk ? ds : a;     // transposed: tokens x rows
    const T* const right = makes_dk ? q : dout;  // rows x columns
#pragma unroll
    for (int step = 0; step < kRows / 16; ++step) {
      uint32_t b[share][2];
#pragma unroll
      for (int j = 0; j < share; ++j)
        if (columns % 2 == 0 || own + 2 * j < columns)
          load_matrices_transposed(b[j], right + (step * 16 + (l & 15)) * Head<D>::stride + (first + own + 2 * j) * 8);
#pragma unroll
      for (int m = 0; m < kTokenTiles / 2; ++m) {
        uint32_t t[4];
        load_matrices_transposed(
            t, left + (step * 16 + (l & 7) + (l >> 4) * 8) * kMapStride + m * 16 + ((l >> 3) & 1) * 8);
#pragma unroll
        for (int j = 0; j < share; ++j)
          if (columns % 2 == 0 || own + 2 * j < columns) mma_k16<E>(sums[j][m], t, b[j][0], b[j][1]);
      }
    }
    barrier(Plant::backward_no_barrier_before_next_tile);
  }

  float* const partial =
      params.workspace + ((int64_t(blockIdx.x) * gridDim.y + blockIdx.y) * 2 + (makes_dk ? 0 : 1)) * shape.tokens * D;
#pragma unroll
  for (int j = 0; j < share; ++j)
#pragma unroll
    for (int m = 0; m < kTokenTiles / 2; ++m)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int tile = own + 2 * j, token = m * 16 + lane_row() + c / 2 * 8;
        if (tile < columns && token < shape.tokens)
          partial[token * D + (first + tile) * 8 + lane_column() + c % 2] = sums[j][m][c];
      }
}

}  // namespace swap::cuda
