// Geometry of the kernels: tiles, strides in shared memory, what lies where. Host and device read the same numbers.
#pragma once

#include "params.h"

namespace swap::cuda {

// All tokens are one tile: 77 of CLIP's padded to ten mma tiles of 8 columns. A softmax row is whole in the registers
// of four lanes, so there is no online softmax and no log-sum-exp to keep.
inline constexpr int kTokens = 80;
inline constexpr int kTokenTiles = kTokens / 8;

// A block takes 64 rows at a time, 16 (the height of an mma) for each of four warps.
inline constexpr int kWarps = 4;
inline constexpr int kThreads = kWarps * 32;
inline constexpr int kRows = kWarps * 16;

// Stride of A_t and dS in shared memory, elements: 11 chunks of 16 bytes.
inline constexpr int kMapStride = kTokens + 8;

template <int D>
struct Head {
  static_assert(D % 8 == 0, "a row is made of whole 16-byte chunks");
  static constexpr int chunks = D / 8;  // 16 bytes each
  // An odd number of chunks: eight consecutive rows then start in eight different groups of four banks, and ldmatrix,
  // which reads eight rows of 16 bytes at a time, has no bank conflict in any layout used here.
  static constexpr int stride = (chunks % 2 ? chunks : chunks + 1) * 8;
  static constexpr int k16 = D / 16;       // mma steps of 16 columns,
  static constexpr bool k8 = D % 16 != 0;  // and one of 8 where they leave some: d = 40 is 16 + 16 + 8, no padding
  static constexpr int tiles = chunks;     // of 8 columns
  static constexpr int row_bytes = stride * 2;
  // Wide heads do not keep K, V and K_r in shared memory side by side. K stays, and one more tile takes K_r, V and (in
  // the backward pass) A_t and dS in turn. At d = 160 nothing else fits into the 99 KB of consumer cards with 64 rows a
  // block; at d = 80 it makes room for a second block on an A100.
  static constexpr bool streamed = D >= 80;
  // Blocks that share the columns of dQ, dK, dV: the sums of d = 160 do not fit into the registers of one.
  static constexpr int split = D > 80 ? 2 : 1;
};

// Byte offsets in a block's shared memory.
template <int D, Form F>
struct ForwardShared {
  static constexpr bool streamed = Head<D>::streamed && F == Form::loss;
  static constexpr size_t tile = size_t(kTokens) * Head<D>::row_bytes;
  static constexpr size_t k = 0;
  static constexpr size_t v = k + tile;
  static constexpr size_t k_ref = streamed ? v : v + tile;
  static constexpr size_t q = F == Form::loss ? k_ref + tile : v + tile;
  static constexpr size_t weights = q + size_t(kRows) * Head<D>::row_bytes;
  static constexpr size_t warp_loss = weights + kTokens * sizeof(float);
  static constexpr size_t bytes = F == Form::loss ? warp_loss + kWarps * sizeof(float) : weights;
};

template <int D, bool WithLoss>
struct BackwardShared {
  static constexpr bool streamed = Head<D>::streamed;
  static constexpr size_t tile = size_t(kTokens) * Head<D>::row_bytes;
  static constexpr size_t map = size_t(kRows) * kMapStride * 2;
  static constexpr size_t turn = streamed && 2 * map > tile ? 2 * map : tile;  // K_r, then V, then A_t and dS
  static constexpr size_t k = 0;
  static constexpr size_t v = k + tile;
  static constexpr size_t k_ref = streamed ? v : v + tile;
  static constexpr size_t q = streamed ? v + turn : (WithLoss ? k_ref + tile : v + tile);
  static constexpr size_t dout = q + size_t(kRows) * Head<D>::row_bytes;
  static constexpr size_t map_end = dout + size_t(kRows) * Head<D>::row_bytes;
  static constexpr size_t a = streamed ? v : map_end;
  static constexpr size_t ds = a + map;
  static constexpr size_t weights = streamed ? map_end : map_end + 2 * map;
  static constexpr size_t bytes = weights + (WithLoss ? kTokens * sizeof(float) : 0);
};

constexpr int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// Blocks that share the rows of one head. By the shape alone: a sum's order, and so its bits, are the same on every
// device. The aim is a few blocks for each of an A100's 108 processors and otherwise as many rows as possible for each,
// because every block reads all of K, V and K_r.
constexpr int row_blocks(const Shape& shape, int usual, int split) {
  const int wanted = shape.blocks ? shape.blocks : usual;
  const int tiles = ceil_div(shape.rows, kRows);
  const int64_t heads = int64_t(shape.batch) * shape.heads * split;
  const int share = ceil_div(wanted, heads);
  const int each = ceil_div(tiles, share < tiles ? share : tiles);  // tiles a block
  return ceil_div(tiles, each);
}
constexpr int forward_blocks(const Shape& shape) { return row_blocks(shape, 512, 1); }
constexpr int backward_blocks(const Shape& shape, int split) { return row_blocks(shape, 256, split); }

}  // namespace swap::cuda
