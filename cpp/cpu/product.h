// What the kernels of products have in common: how both factors are packed and how results are written. Included by one
// file for each instruction set, after its target pragma: everything here is local to that file.
#pragma once

#include "cpu/gelu.h"
#include "cpu/pairs.h"
#include "cpu/product_kernel.h"

namespace swap::cpu {
namespace {

using Isa = BFloat16Pairs;

constexpr int64_t kTile = 16 * kChannels;  // elements: 16 outputs, or pixels, of 32 channels

// Which part of the pictures a block is.
struct Part {
  int64_t sample, samples, line, lines, column, width;

  Part(const Product& p, int64_t block) {
    const int64_t across = blocks_across(p), down = blocks_down(p);
    sample = block / (across * down) * p.block_samples;
    samples = p.samples - sample < p.block_samples ? p.samples - sample : p.block_samples;
    line = block / across % down * p.block_lines, column = block % across * p.block_width;
    lines = p.height - line < p.block_lines ? p.height - line : p.block_lines;
    width = p.width - column < p.block_width ? p.width - column : p.block_width;
  }
};

// Where the pixels of a packed block are, in elements: 32 channels of a pixel lie together. A line of a matrix has its
// channels one after another, which is the order they are read in; in a picture, whole planes follow each other, so
// that a tile may begin at any pixel.
struct Layout {
  int64_t line, plane;

  explicit Layout(const Product& p)
      : line(p.taps == 1 ? pitch(p) * p.depth : pitch(p) * kChannels),
        plane(p.taps == 1 ? pitch(p) * kChannels : p.block_samples * packed_lines(p) * pitch(p) * kChannels) {}
};

void pack_pixel(const BFloat16* from, int64_t depth, BFloat16* to, int64_t plane) {
  if (from) {
    for (int64_t c = 0; c < depth; c += kChannels, to += plane) _mm512_storeu_si512(to, _mm512_loadu_si512(from + c));
  } else {
    for (int64_t c = 0; c < depth; c += kChannels, to += plane) _mm512_storeu_si512(to, _mm512_setzero_si512());
  }
}

void pack_block(const Product& p, int64_t block, void* to) {
  const Part part(p, block);
  const Layout layout(p);
  const int64_t edge = border(p);
  for (int64_t s = 0; s < part.samples; ++s) {
    const auto* const x = static_cast<const BFloat16*>(p.x) + (part.sample + s) * p.pixels * p.depth;
    for (int64_t i = 0; i < part.lines + 2 * edge; ++i) {
      const int64_t line = part.line + i - edge;
      auto* const row = static_cast<BFloat16*>(to) + (s * packed_lines(p) + i) * layout.line;
      for (int64_t j = 0; j < part.width + 2 * edge; ++j) {
        const int64_t column = part.column + j - edge, pixel = line * p.width + column;
        const bool inside = line >= 0 && line < p.height && column >= 0 && column < p.width && pixel < p.pixels;
        pack_pixel(inside ? x + pixel * p.depth : nullptr, p.depth, row + j * kChannels, layout.plane);
      }
    }
  }
}

constexpr int64_t kAhead = 4 * kChannels;  // how far weights are asked for before they are packed: elements,
constexpr int64_t kAheadRows = 4;          // and rows

// Two rows of 32 channels as pairs of both, 16 of them into either tile: Isa::interleave would take two turns.
void pair_rows(const BFloat16* first, const BFloat16* second, BFloat16* left, BFloat16* right) {
  alignas(64) static constexpr uint16_t kLeft[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                     8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i a = _mm512_loadu_si512(first), b = _mm512_loadu_si512(second), low = _mm512_load_si512(kLeft);
  _mm512_storeu_si512(left, _mm512_permutex2var_epi16(a, low, b));
  _mm512_storeu_si512(right, _mm512_permutex2var_epi16(a, _mm512_add_epi16(low, _mm512_set1_epi16(16)), b));
}

// Tiles in the order that `multiply` reads them: by 32 channels, by tap, and of the 32 outputs first the one half, then
// the other. Weights are read row by row, as they lie.
void pack_weights(const Product& p, int64_t group, int64_t count, void* to) {
  const auto* const weight = static_cast<const BFloat16*>(p.weight);
  const auto tile = [&](int64_t g, int64_t c, int64_t tap, int64_t half) {
    return static_cast<BFloat16*>(to) + g * group_size(p) + ((c / kChannels * p.taps + tap) * 2 + half) * kTile;
  };
  if (p.transposed) {
    for (int64_t c = 0; c < p.depth; c += 2) {
      const int64_t row = c % kChannels * 16;  // of a tile: two channels of x
      for (int64_t tap = 0; tap < p.taps; ++tap) {
        const auto* from = weight + c * p.weight_row + (p.taps - 1 - tap) * p.weight_tap + kGroup * group;
        for (int64_t g = 0; g < count; ++g, from += kGroup) {
          _mm_prefetch(reinterpret_cast<const char*>(from + kAheadRows * p.weight_row), _MM_HINT_T0);
          _mm_prefetch(reinterpret_cast<const char*>(from + (kAheadRows + 1) * p.weight_row), _MM_HINT_T0);
          pair_rows(from, from + p.weight_row, tile(g, c, tap, 0) + row, tile(g, c, tap, 1) + row);
        }
      }
    }
    return;
  }
  for (int64_t g = 0; g < count; ++g) {
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t n = p.gated ? half * p.outputs / 2 + 16 * (group + g) : kGroup * (group + g) + 16 * half;
      for (int64_t tap = 0; tap < p.taps; ++tap) {
        const auto* from = weight + n * p.weight_row + tap * p.weight_tap;
        for (int64_t c = 0; c < p.depth; c += kChannels, from += kChannels) {
          // 16 rows at once are more than a processor foresees.
          for (int64_t i = 0; i < 16; ++i) {
            _mm_prefetch(reinterpret_cast<const char*>(from + i * p.weight_row + kAhead), _MM_HINT_T0);
          }
          Isa::transpose(reinterpret_cast<const Isa::Unit*>(from), p.weight_row / 2, 16, 16,
                         reinterpret_cast<Isa::Unit*>(tile(g, c, tap, half)), 16);
        }
      }
    }
  }
}

// A run of a packed block: so many pixels one after another as a kernel wants side by side. The border at the end of
// each line may be among them.
template <int kCount>
struct Run {
  const BFloat16* x;
  int64_t sample, line, column;  // of the first, within the block
  bool dense;                    // all are pixels of the picture, of one line

  Run() = default;
  Run(const Product& p, const Part& part, const Layout& layout, const BFloat16* rows, int64_t sample, int64_t position)
      : sample(sample), line(position / pitch(p)), column(position % pitch(p)) {
    x = rows + (sample * packed_lines(p) + line) * layout.line + column * kChannels;
    dense = column + kCount <= part.width && line < part.lines && pixel(p, part) + kCount <= p.pixels;
  }

  int64_t pixel(const Product& p, const Part& part) const {
    return (part.line + line) * p.width + part.column + column;
  }
};

// The sums of a pixel and 32 outputs, as they go into y.
template <bool kGated>
void write_pixel(Isa::V a, Isa::V b, BFloat16* y) {
  if constexpr (kGated) {
    Isa::V value, slope;
    Gelu<BFloat16, Isa>::gelu(b, value, slope);
    Isa::store(y, Isa::mul(a, value));
  } else {
    _mm512_storeu_si512(y, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));
  }
}

// What is added to the first pixel of a run's sample, where something is.
template <int kCount>
const BFloat16* added_to(const Product& p, const Part& part, const Run<kCount>& pixels, int64_t group) {
  return static_cast<const BFloat16*>(p.added) + (part.sample + pixels.sample) * p.added_sample + kGroup * group;
}

template <bool kGated, int kCount>
void write(const Product& p, const Part& part, const Run<kCount>& pixels, const float* left, const float* right,
           int64_t group) {
  constexpr int64_t kWidth = kGated ? kGroup / 2 : kGroup;
  const int64_t row = kGated ? p.outputs / 2 : p.outputs, second = kGated ? row + 16 * group : kGroup * group + 16;
  const auto* const bias = static_cast<const BFloat16*>(p.bias);
  const auto a = bias ? Isa::load(bias + kWidth * group) : Isa::set(0),
             b = bias ? Isa::load(bias + second) : Isa::set(0);
  auto* const y = static_cast<BFloat16*>(p.y) + (part.sample + pixels.sample) * p.pixels * row + kWidth * group;
  const auto* const added = p.added ? added_to(p, part, pixels, group) : nullptr;
  const auto write_one = [&](int64_t i, int64_t pixel) {
    auto u = Isa::add(Isa::load(left + 16 * i), a), v = Isa::add(Isa::load(right + 16 * i), b);
    if (!kGated && added) {
      u = Isa::add(u, Isa::load(added + pixel * p.added_pixel));
      v = Isa::add(v, Isa::load(added + pixel * p.added_pixel + 16));
    }
    write_pixel<kGated>(u, v, y + pixel * row);
  };
  auto at = pixels;
  if (at.dense) {
    const int64_t first = at.pixel(p, part);
    for (int64_t i = 0; i < kCount; ++i) write_one(i, first + i);
    return;
  }
  for (int64_t i = 0; i < kCount; ++i) {
    const int64_t pixel = at.pixel(p, part);
    if (at.column < part.width && at.line < part.lines && pixel < p.pixels) write_one(i, pixel);
    if (++at.column == pitch(p)) at.column = 0, ++at.line;
  }
}

// What will be added comes while the products are made: no two groups of outputs read the same lines of the cache, and
// no two pixels.
template <int kCount>
void ask_for_added(const Product& p, const Part& part, const Run<kCount>& pixels, int64_t group) {
  const auto* const added = added_to(p, part, pixels, group) + pixels.pixel(p, part) * p.added_pixel;
  for (int64_t i = 0; i < kCount; ++i) {
    _mm_prefetch(reinterpret_cast<const char*>(added + i * p.added_pixel), _MM_HINT_T0);
  }
}

// `Kernel` multiplies up to kTiles tiles of a block with a group of weights into sums [kTiles][2 halves of the
// outputs][kPixels][16]. A tile is kPixels pixels, in runs of kRun, and x has a pointer for each run.
template <class Kernel, int kTaps, bool kGated>
void multiply_block(const Product& p, int64_t block, const BFloat16* rows, int64_t group, int64_t count,
                    const BFloat16* weights) {
  constexpr int kPixels = Kernel::kPixels, kRun = Kernel::kRun, kRuns = kPixels / kRun, kTiles = Kernel::kTiles;
  const Part part(p, block);
  const Layout layout(p);
  // Lines that runs fill are cut each for itself; others go on into the next one, the border between them included.
  const bool whole = part.width % kRun == 0;
  const int64_t a_line = part.width / kRun;
  int64_t each = whole ? part.lines * a_line : divide_up(part.lines * pitch(p), kRun);  // of a sample
  if (p.taps == 1) {  // the last line of a matrix may have few rows
    const int64_t rows_left = p.pixels - part.line * p.width;
    each = each * kRun < rows_left ? each : divide_up(rows_left, kRun);
  }
  const int64_t runs = part.samples * each;
  alignas(64) float sums[kTiles][2][kPixels * 16];
  Kernel::enter();
  for (int64_t first = 0; first < runs; first += kTiles * kRuns) {
    const int here = runs - first < kTiles * kRuns ? static_cast<int>(runs - first) : kTiles * kRuns;
    const int tiles = (here + kRuns - 1) / kRuns;
    Run<kRun> run[kTiles * kRuns];
    const BFloat16* x[kTiles * kRuns];
    for (int i = 0; i < tiles * kRuns; ++i) {
      // What the last tile lacks is the last run again, which is not written twice.
      const int64_t at = first + (i < here ? i : here - 1), within = at % each;
      const int64_t position = whole ? within / a_line * pitch(p) + within % a_line * kRun : within * kRun;
      run[i] = Run<kRun>(p, part, layout, rows, at / each, position);
      x[i] = run[i].x;
    }
    for (int64_t g = 0; g < count; ++g) {
      if (p.added_pixel > 0) {
        for (int i = 0; i < here; ++i) ask_for_added(p, part, run[i], group + g);
      }
      Kernel::template multiply<kTaps>(p, layout, x, tiles, weights + g * group_size(p), sums[0][0]);
      for (int i = 0; i < here; ++i) {
        const auto& tile = sums[i / kRuns];
        const int64_t offset = i % kRuns * kRun * 16;
        write<kGated>(p, part, run[i], tile[0] + offset, tile[1] + offset, group + g);
      }
    }
  }
  Kernel::leave();
}

template <class Kernel>
void multiply(const Product& p, int64_t block, const void* rows, int64_t group, int64_t count, const void* weights) {
  const auto* const x = static_cast<const BFloat16*>(rows);
  const auto* const w = static_cast<const BFloat16*>(weights);
  if (p.taps == 9) {
    multiply_block<Kernel, 9, false>(p, block, x, group, count, w);
  } else if (p.gated) {
    multiply_block<Kernel, 1, true>(p, block, x, group, count, w);
  } else {
    multiply_block<Kernel, 1, false>(p, block, x, group, count, w);
  }
}

template <class Kernel>
constexpr ProductKernel make_product_kernel(const char* name) {
  return {name, Kernel::kAsksAhead, pack_block, pack_weights, multiply<Kernel>};
}

}  // namespace
}  // namespace swap::cpu
