// x86-64 with AMX: products of bfloat16 pairs in tiles of 16 x 16 floats, the rest with AVX512-BF16.
#include "cpu/kernels.h"

#ifdef SWAP_X86

#include <cstring>
#include <type_traits>

#include "cpu/avx512_intrinsics.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,amx-tile,amx-bf16")

#include "cpu/amx_tiles.h"
#include "cpu/attention.h"
#include "cpu/flash.h"
#include "cpu/pairs.h"

namespace swap::cpu {
namespace {

// Tiles 0 to 4 are sums, 5 is a tile of A, 6 and 7 are of B.
struct Amx : BFloat16Pairs {
  static constexpr int kRows = 64, kRowStep = 32, kDepth = 16, kTileRows = 16, kPanel = 5;

  static void enter() { _tile_loadconfig(&kTiles); }
  static void leave() { _tile_release(); }

  // 16 rows of N tiles of columns. lda and ldb in units.
  template <int N, bool kAdd>
  static void tile_row(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc, int64_t depth) {
    written();
    const int64_t c_bytes = ldc * 4, a_bytes = lda * 4, b_bytes = ldb * 4;
    if constexpr (kAdd) {
      _tile_loadd(0, c, c_bytes);
      if constexpr (N > 1) _tile_loadd(1, c + 16, c_bytes);
      if constexpr (N > 2) _tile_loadd(2, c + 32, c_bytes);
      if constexpr (N > 3) _tile_loadd(3, c + 48, c_bytes);
      if constexpr (N > 4) _tile_loadd(4, c + 64, c_bytes);
    } else {
      _tile_zero(0);
      if constexpr (N > 1) _tile_zero(1);
      if constexpr (N > 2) _tile_zero(2);
      if constexpr (N > 3) _tile_zero(3);
      if constexpr (N > 4) _tile_zero(4);
    }
    for (int64_t k = 0; k < depth; k += 16) {
      const Unit* row = b + k * ldb;
      _tile_loadd(5, a + k, a_bytes);
      _tile_loadd(6, row, b_bytes);
      _tile_dpbf16ps(0, 5, 6);
      if constexpr (N > 1) {
        _tile_loadd(7, row + 16, b_bytes);
        _tile_dpbf16ps(1, 5, 7);
      }
      if constexpr (N > 2) {
        _tile_loadd(6, row + 32, b_bytes);
        _tile_dpbf16ps(2, 5, 6);
      }
      if constexpr (N > 3) {
        _tile_loadd(7, row + 48, b_bytes);
        _tile_dpbf16ps(3, 5, 7);
      }
      if constexpr (N > 4) {
        _tile_loadd(6, row + 64, b_bytes);
        _tile_dpbf16ps(4, 5, 6);
      }
    }
    written();
    _tile_stored(0, c, c_bytes);
    if constexpr (N > 1) _tile_stored(1, c + 16, c_bytes);
    if constexpr (N > 2) _tile_stored(2, c + 32, c_bytes);
    if constexpr (N > 3) _tile_stored(3, c + 48, c_bytes);
    if constexpr (N > 4) _tile_stored(4, c + 64, c_bytes);
    written();
  }

  template <bool kAdd>
  static void tile_product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc, int64_t rows,
                           int64_t columns, int64_t depth) {
    const int64_t tiles = columns / 16, panels = divide_up(tiles, kPanel);
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t begin = tiles * p / panels, end = tiles * (p + 1) / panels;
      for (int64_t i = 0; i < rows; i += 16) {
        const Unit *left = a + i * lda, *right = b + begin * 16;
        float* out = c + i * ldc + begin * 16;
        switch (end - begin) {
          case 1:
            tile_row<1, kAdd>(left, lda, right, ldb, out, ldc, depth);
            break;
          case 2:
            tile_row<2, kAdd>(left, lda, right, ldb, out, ldc, depth);
            break;
          case 3:
            tile_row<3, kAdd>(left, lda, right, ldb, out, ldc, depth);
            break;
          case 4:
            tile_row<4, kAdd>(left, lda, right, ldb, out, ldc, depth);
            break;
          default:
            tile_row<5, kAdd>(left, lda, right, ldb, out, ldc, depth);
        }
      }
    }
  }

  static void product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc, int64_t rows,
                      int64_t columns, int64_t depth) {
    tile_product<false>(a, lda, b, ldb, c, ldc, rows, columns, depth);
  }
  static void add_product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc, int64_t rows,
                          int64_t columns, int64_t depth) {
    tile_product<true>(a, lda, b, ldb, c, ldc, rows, columns, depth);
  }
  static void add_transposed_product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc,
                                     int64_t rows, int64_t columns, int64_t depth) {
    // A tile of A has its depth along the row.
    alignas(64) Unit turned[kMaxTokens * kRows / 2];
    transpose(a, lda, depth, rows, turned, depth);
    tile_product<true>(turned, depth, b, ldb, c, ldc, rows, columns, depth);
  }
};

}  // namespace

constinit const Kernel kAmxBFloat16 = make_kernel<BFloat16, Amx>("amx", true);
constinit const FlashKernel kFlashAmxBFloat16 = make_flash_kernel<BFloat16, Amx>("amx", true, 256);

}  // namespace swap::cpu

#endif
