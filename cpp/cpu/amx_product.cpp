// Products of bfloat16 in AMX's tiles. Two tiles of pixels meet two tiles of weights: four loads for four products. In
// a convolution those of x mostly come from the nearest cache, for a pixel is loaded once for each of nine taps.
#include "cpu/kernels.h"

#ifdef SWAP_X86

#include "cpu/avx512_intrinsics.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,amx-tile,amx-bf16")

#include "cpu/amx_tiles.h"
#include "cpu/product.h"

namespace swap::cpu {
namespace {

struct AmxProduct {
  static constexpr int kPixels = 16, kRun = 16, kTiles = 2;
  static constexpr bool kAsksAhead = false;

  static void enter() { _tile_loadconfig(&swap::cpu::kTiles); }
  static void leave() { _tile_release(); }

  template <int kTaps>
  static void multiply(const Product& p, const Layout& layout, const BFloat16* const* x, int tiles,
                       const BFloat16* weights, float* sums) {
    const BFloat16 *first = x[0], *second = x[tiles - 1];
    written();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    constexpr int kSide = kTaps == 9 ? 3 : 1;
    for (int64_t c = 0; c < p.depth; c += kChannels, first += layout.plane, second += layout.plane) {
      for (int i = 0; i < kSide; ++i) {
#pragma GCC unroll 3
        for (int j = 0; j < kSide; ++j, weights += 2 * kTile) {
          const int64_t at = i * layout.line + j * kChannels;
          _tile_loadd(6, weights, 64);
          _tile_loadd(4, first + at, 64);
          _tile_dpbf16ps(0, 4, 6);
          _tile_loadd(7, weights + kTile, 64);
          _tile_dpbf16ps(1, 4, 7);
          _tile_loadd(5, second + at, 64);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
          // A third of what the next 32 channels will load of this line, if both tiles lie in it: 36 pixels in all.
          // They are in another plane, where no prefetcher looks.
          if constexpr (kTaps == 9) {
            const auto* const next = first + layout.plane + i * layout.line + j * 12 * kChannels;
#pragma GCC unroll 12
            for (int k = 0; k < 12; ++k) {
              _mm_prefetch(reinterpret_cast<const char*>(next + k * kChannels), _MM_HINT_T0);
            }
          }
        }
      }
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    _tile_stored(2, sums + 512, 64);
    _tile_stored(3, sums + 768, 64);
    written();
  }
};

}  // namespace

constinit const ProductKernel kProductAmx = make_product_kernel<AmxProduct>("amx");

}  // namespace swap::cpu

#endif
