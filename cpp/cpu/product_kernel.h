// What a CPU kernel of products is given: a linear layer, or a 3 x 3 convolution, or the way back of either.
#pragma once

#include "cpu/kernel.h"

namespace swap::cpu {

// y[pixel][n] = bias[n] + the sum over taps t and channels c of x[pixel moved by t][c] w[n][t][c], in fp32. The pixels
// are those of a picture with zeros around it; the rows of a matrix are one picture with a single tap.
//
// Both factors are packed before they are multiplied: x in blocks of the picture, w in groups of kGroup outputs.
struct Product {
  int64_t samples = 1, height = 0, width = 0;  // of the picture; a matrix of M rows is [1, M / 32 rounded up, 32]
  int64_t pixels = 0;                          // of a sample: height * width, or M
  int64_t taps = 1;                            // 1, or 9: those of a 3 x 3 kernel, row by row
  int64_t depth = 0, outputs = 0;              // channels of x; products of a pixel: multiples of 32

  // Output n is the row n of the weights, else (the way back) their channel n: there x is dy, and tap t is tap 8 - t.
  bool transposed = false;
  int64_t weight_row = 0, weight_tap = 0;  // strides, in elements, the first one even; channels are dense
  // y[n] = (output n of the first half) gelu(output n of the second half), and y is half as wide
  bool gated = false;

  const void* x = nullptr;       // [samples, pixels, depth]
  const void* weight = nullptr;  // [rows][taps][channels]
  const void* bias = nullptr;    // [outputs], or null
  void* y = nullptr;             // [samples, pixels, outputs]
  // Added to y before it is rounded, or null; not with `gated`. From a sample, and a pixel, to the next: elements, 0
  // where all have the same.
  const void* added = nullptr;
  int64_t added_sample = 0, added_pixel = 0;

  // x is packed in blocks of so many lines, and pixels of a line; of small pictures several samples are a block, so
  // that weights that come from memory meet more pixels.
  int64_t block_lines = 0, block_width = 0, block_samples = 1;
};

constexpr int64_t kGroup = 32;        // outputs that are packed together
constexpr int64_t kChannels = 32;     // channels of a pixel that lie together when packed
constexpr int64_t kMatrixWidth = 32;  // rows of a matrix that are a line of its picture

static constexpr int64_t border(const Product& p) { return p.taps == 1 ? 0 : 1; }
// Pixels of a packed line.
static constexpr int64_t pitch(const Product& p) { return p.block_width + 2 * border(p); }
// Of a sample in a block.
static constexpr int64_t packed_lines(const Product& p) { return p.block_lines + 2 * border(p); }
static constexpr int64_t blocks_down(const Product& p) { return divide_up(p.height, p.block_lines); }
static constexpr int64_t blocks_across(const Product& p) { return divide_up(p.width, p.block_width); }
static constexpr int64_t block_count(const Product& p) {
  return divide_up(p.samples, p.block_samples) * blocks_down(p) * blocks_across(p);
}
// Elements. A tile of 16 pixels may begin at the last one of its line: what it loads beyond the block is nobody's.
static constexpr int64_t block_size(const Product& p) {
  return p.block_samples * packed_lines(p) * pitch(p) * p.depth + 32 * kChannels;
}
static constexpr int64_t group_size(const Product& p) { return kGroup * p.taps * p.depth; }

struct ProductKernel {
  const char* name;
  bool
      asks_ahead;  // for the weights that it will multiply with next: else packing them anew is as fast as keeping them
  void (*pack_block)(const Product&, int64_t block, void* to);
  // `count` groups of outputs, one after another
  void (*pack_weights)(const Product&, int64_t group, int64_t count, void* to);
  void (*multiply)(const Product&, int64_t block, const void* x, int64_t group, int64_t count, const void* weights);
};

}  // namespace swap::cpu
