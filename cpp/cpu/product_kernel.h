// What a CPU kernel of products is given: a linear layer, or a 3 x 3 convolution, or the way back of either.
#pragma once

#include "cpu/kernel.h"

namespace swap::cpu {

// y[pixel][n] = bias[n] + the sum over taps t and channels c of x[pixel moved by t][c] w[n][t][c], in fp32. The pixels
// are those of a picture with zeros around it; the rows of a matrix are one picture with a single tap.
//
// Both factors are packed before they are multiplied: x in blocks of the picture, w in blocks of kColumns columns.
struct Product {
  static constexpr int64_t kColumns = 32, kDepth = 32, kMatrixRows = 32;

  int64_t samples = 1, height = 0, width = 0;  // of the picture; a matrix of M rows is [1, M / 32 rounded up, 32]
  int64_t pixels = 0;                          // of a sample: height * width, or M
  int64_t taps = 1;                            // 1, or 9: those of a 3 x 3 kernel, row by row
  int64_t depth = 0, columns = 0;              // channels of x; columns of the packed w: multiples of 32

  // Column n is the row n of the weights, else (the way back) their channel n: there x is dy, and tap t is tap 8 - t.
  bool transposed = false;
  int64_t weight_row = 0, weight_tap = 0;  // strides, in elements; channels are dense
  // y[n] = (column n of the first half) gelu(column n of the second half), and y is half as wide
  bool gated = false;

  const void* x = nullptr;       // [samples, pixels, depth]
  const void* weight = nullptr;  // [rows][taps][channels]
  const void* bias = nullptr;    // [columns], or null
  void* y = nullptr;             // [samples, pixels, columns]

  // x is packed in blocks of so many lines and pixels of a line.
  int64_t block_lines = 0, block_width = 0;

  int64_t border() const { return taps == 1 ? 0 : 1; }
  int64_t pitch() const { return block_width + 2 * border(); }
  int64_t blocks_down() const { return (height + block_lines - 1) / block_lines; }
  int64_t blocks_across() const { return (width + block_width - 1) / block_width; }
  int64_t blocks() const { return samples * blocks_down() * blocks_across(); }
  // Elements of a packed block; a tile of 16 pixels may begin at the last one of its last line.
  int64_t block_size() const { return ((block_lines + 2 * border()) * pitch() + 32) * depth; }
  // Elements of kColumns packed columns.
  int64_t columns_size() const { return kColumns * taps * depth; }
};

struct ProductKernel {
  void (*pack_block)(const Product&, int64_t block, void* to);
  // `count` groups of kColumns, one after another
  void (*pack_columns)(const Product&, int64_t group, int64_t count, void* to);
  void (*multiply)(const Product&, int64_t block, const void* rows, int64_t group, int64_t count, const void* columns);
};

}  // namespace swap::cpu
