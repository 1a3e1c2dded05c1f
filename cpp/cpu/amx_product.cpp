// Products of bfloat16 in AMX's tiles. Two tiles of pixels meet two tiles of columns: four loads for four products, of
// which those of x mostly come from the nearest cache, for a pixel is loaded once for each of nine taps.
#include "cpu/kernels.h"

#ifdef SWAP_X86

#include <immintrin.h>

// Some intrinsics of GCC 12 start from a register that they leave undefined on purpose.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,amx-tile,amx-bf16")

#include "cpu/amx_tiles.h"
#include "cpu/gelu.h"
#include "cpu/pairs.h"

namespace swap::cpu {
namespace {

using Isa = BFloat16Pairs;

constexpr int64_t kDepth = Product::kDepth, kColumns = Product::kColumns;
constexpr int64_t kTile = 16 * kDepth;  // elements of a tile of x or of w

// Which part of the picture a block is.
struct Part {
  int64_t sample, line, lines, column, columns;

  Part(const Product& p, int64_t block) {
    const int64_t across = p.blocks_across(), down = p.blocks_down();
    sample = block / (across * down);
    line = block / across % down * p.block_lines, column = block % across * p.block_width;
    lines = p.height - line < p.block_lines ? p.height - line : p.block_lines;
    columns = p.width - column < p.block_width ? p.width - column : p.block_width;
  }
};

// Where the pixels of a packed block are, in elements: 32 channels of a pixel lie together. A line of a matrix has its
// channels one after another, which is the order they are read in; in a picture, whole planes follow each other, so that
// a tile may begin at any pixel.
struct Layout {
  int64_t line, plane;

  explicit Layout(const Product& p)
      : line(p.taps == 1 ? p.pitch() * p.depth : p.pitch() * kDepth),
        plane(p.taps == 1 ? p.pitch() * kDepth : (p.block_lines + 2 * p.border()) * p.pitch() * kDepth) {}
};

void pack_pixel(const BFloat16* from, int64_t depth, BFloat16* to, int64_t plane) {
  if (from) {
    for (int64_t c = 0; c < depth; c += kDepth, to += plane) _mm512_storeu_si512(to, _mm512_loadu_si512(from + c));
  } else {
    for (int64_t c = 0; c < depth; c += kDepth, to += plane) _mm512_storeu_si512(to, _mm512_setzero_si512());
  }
}

void pack_block(const Product& p, int64_t block, void* to) {
  const Part part(p, block);
  const Layout layout(p);
  const int64_t border = p.border();
  const auto* const x = static_cast<const BFloat16*>(p.x) + part.sample * p.pixels * p.depth;
  for (int64_t i = 0; i < part.lines + 2 * border; ++i) {
    const int64_t line = part.line + i - border;
    auto* const row = static_cast<BFloat16*>(to) + i * layout.line;
    for (int64_t j = 0; j < part.columns + 2 * border; ++j) {
      const int64_t column = part.column + j - border, pixel = line * p.width + column;
      const bool inside = line >= 0 && line < p.height && column >= 0 && column < p.width && pixel < p.pixels;
      pack_pixel(inside ? x + pixel * p.depth : nullptr, p.depth, row + j * kDepth, layout.plane);
    }
  }
}

// Tiles in the order that `multiply` reads them: by 32 channels, by tap, and of the 32 columns first the one half, then
// the other.
void pack_columns(const Product& p, int64_t group, void* to) {
  const auto* const weight = static_cast<const BFloat16*>(p.weight);
  auto* const tiles = static_cast<BFloat16*>(to);
  for (int64_t half = 0; half < 2; ++half) {
    const int64_t n = p.gated ? half * p.columns / 2 + 16 * group : kColumns * group + 16 * half;
    for (int64_t tap = 0; tap < p.taps; ++tap) {
      for (int64_t c = 0; c < p.depth; c += kDepth) {
        auto* const tile = reinterpret_cast<Isa::Unit*>(tiles + ((c / kDepth * p.taps + tap) * 2 + half) * kTile);
        if (p.transposed) {
          const auto* from = weight + c * p.weight_row + (p.taps - 1 - tap) * p.weight_tap + n;
          for (int64_t i = 0; i < 16; ++i, from += 2 * p.weight_row) {
            const auto widened = [](const BFloat16* row) {
              return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row)));
            };
            _mm512_storeu_si512(tile + 16 * i, _mm512_or_si512(widened(from), _mm512_slli_epi32(
                                                                                  widened(from + p.weight_row), 16)));
          }
        } else {
          const auto* from = weight + n * p.weight_row + tap * p.weight_tap + c;
          Isa::transpose(reinterpret_cast<const Isa::Unit*>(from), p.weight_row / 2, 16, 16, tile, 16);
        }
      }
    }
  }
}

// Writes the sums of 16 pixels and 32 columns. `position` counts a packed block's pixels, the border at the end of each
// line included: those are not pixels of the picture.
void write(const Product& p, const Part& part, int64_t position, const float* left, const float* right, int64_t group) {
  const int64_t width = p.gated ? kColumns / 2 : kColumns, pitch = p.pitch();
  const auto zero = Isa::set(0);
  const int64_t second = p.gated ? p.columns / 2 + 16 * group : kColumns * group + 16;
  const auto* const bias = static_cast<const BFloat16*>(p.bias);
  const auto first_bias = bias ? Isa::load(bias + width * group) : zero;
  const auto second_bias = bias ? Isa::load(bias + second) : zero;
  const int64_t out_width = p.gated ? p.columns / 2 : p.columns;
  auto* const y = static_cast<BFloat16*>(p.y) + part.sample * p.pixels * out_width + width * group;
  int64_t line = position / pitch, column = position % pitch;
  for (int i = 0; i < 16; ++i) {
    const int64_t pixel = (part.line + line) * p.width + part.column + column;
    if (column < part.columns && line < part.lines && pixel < p.pixels) {
      const auto a = Isa::add(Isa::load(left + 16 * i), first_bias), b = Isa::add(Isa::load(right + 16 * i), second_bias);
      if (p.gated) {
        Isa::V value, slope;
        Gelu<BFloat16, Isa>::gelu(b, value, slope);
        Isa::store(y + pixel * out_width, Isa::mul(a, value));
      } else {
        _mm512_storeu_si512(y + pixel * out_width, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));
      }
    }
    if (++column == pitch) column = 0, ++line;
  }
}

// Two tiles of pixels times two of columns into tiles 0 to 3.
template <int kTaps>
void multiply_tiles(const Product& p, const Layout& layout, const BFloat16* first, const BFloat16* second,
                    const BFloat16* columns) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  constexpr int kSide = kTaps == 9 ? 3 : 1;
  for (int64_t c = 0; c < p.depth; c += kDepth, first += layout.plane, second += layout.plane) {
    for (int i = 0; i < kSide; ++i) {
#pragma GCC unroll 3
      for (int j = 0; j < kSide; ++j, columns += 2 * kTile) {
        const int64_t at = i * layout.line + j * kDepth;
        _tile_loadd(6, columns, 64);
        _tile_loadd(4, first + at, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, columns + kTile, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, second + at, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        // What the next 32 channels will load of this line: 32 pixels, and one at either side. No prefetcher sees it
        // coming, in another plane.
        if constexpr (kTaps == 9) {
          const auto* const next = first + layout.plane + i * layout.line + j * 12 * kDepth;
#pragma GCC unroll 12
          for (int k = 0; k < 12; ++k) _mm_prefetch(reinterpret_cast<const char*>(next + k * kDepth), _MM_HINT_T0);
        }
      }
    }
  }
}

void multiply(const Product& p, int64_t block, const void* rows, int64_t group, int64_t count, const void* columns) {
  const Part part(p, block);
  const Layout layout(p);
  const auto* const x = static_cast<const BFloat16*>(rows);
  const auto* const w = static_cast<const BFloat16*>(columns);
  const int64_t pitch = p.pitch();
  // Lines that tiles fill are cut each for itself; others go on into the next one, the border between them included.
  const bool whole = part.columns % 16 == 0;
  const int64_t a_line = part.columns / 16;
  const int64_t tiles = whole ? part.lines * a_line : (part.lines * pitch + 15) / 16;
  const auto position = [&](int64_t tile) { return whole ? tile / a_line * pitch + tile % a_line * 16 : tile * 16; };
  const auto address = [&](int64_t at) { return x + at / pitch * layout.line + at % pitch * kDepth; };
  alignas(64) float sums[4][256];
  _tile_loadconfig(&kTiles);
  for (int64_t tile = 0; tile < tiles; tile += 2) {
    const bool two = tile + 1 < tiles;
    const int64_t first = position(tile), second = two ? position(tile + 1) : first;
    for (int64_t g = 0; g < count; ++g) {
      written();
      const auto* const from = w + g * p.columns_size();
      if (p.taps == 9) {
        multiply_tiles<9>(p, layout, address(first), address(second), from);
      } else {
        multiply_tiles<1>(p, layout, address(first), address(second), from);
      }
      _tile_stored(0, sums[0], 64);
      _tile_stored(1, sums[1], 64);
      _tile_stored(2, sums[2], 64);
      _tile_stored(3, sums[3], 64);
      written();
      write(p, part, first, sums[0], sums[1], group + g);
      if (two) write(p, part, second, sums[2], sums[3], group + g);
    }
  }
  _tile_release();
}

}  // namespace

constinit const ProductKernel kProductAmx = {pack_block, pack_columns, multiply};

}  // namespace swap::cpu

#endif
