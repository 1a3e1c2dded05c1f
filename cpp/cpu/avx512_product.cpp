// Products of bfloat16 by AVX512-BF16: 8 pixels meet 32 outputs, two channels at once, in 16 registers of sums.
#include "cpu/kernels.h"

#ifdef SWAP_X86

#include "cpu/avx512_intrinsics.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")

#include "cpu/product.h"

namespace swap::cpu {
namespace {

struct PairsProduct {
  // So many that weights which the nearest cache holds meet all of them before the next ones come.
  // Two runs of 4 pixels are a tile, which a picture of 4 x 4 has two of.
  static constexpr int kPixels = 8, kRun = 4, kTiles = 16;
  static constexpr bool kAsksAhead = true;
  // Taps times 32 channels that go through together: 18 KB of weights.
  static constexpr int kStretch = 9;

  static void enter() {}
  static void leave() {}

  template <int kTaps>
  static void multiply(const Product& p, const Layout& layout, const BFloat16* const* x, int tiles,
                       const BFloat16* weights, float* sums) {
    constexpr int64_t kDepth = kChannels * (kStretch / kTaps);
    for (int64_t c = 0; c < p.depth; c += kDepth) {
      const int64_t depth = p.depth - c < kDepth ? p.depth - c : kDepth;
      const int64_t size = depth / kChannels * kTaps * 2 * kTile;
      // Meanwhile the next ones come: from memory they would take as long as the products. Each of the first two, or
      // eight, tiles asks for a part of every 2 KB.
      const int64_t plane = c / kChannels * layout.plane;
      for (int i = 0; i < tiles; ++i) {
        const BFloat16 *const a = x[2 * i] + plane, *const b = x[2 * i + 1] + plane, *const next = weights + size;
        float* const to = sums + i * kSums;
        if (tiles < 8 && i < 2) {
          multiply_tile<kTaps, 16>(layout, a, b, depth, weights, next + 16 * 32 * i, c > 0, to);
        } else if (tiles >= 8 && i < 8) {
          multiply_tile<kTaps, 4>(layout, a, b, depth, weights, next + 4 * 32 * i, c > 0, to);
        } else {
          multiply_tile<kTaps, 0>(layout, a, b, depth, weights, nullptr, c > 0, to);
        }
      }
      weights += size;
    }
  }

 private:
  static constexpr int kSums = 2 * kPixels * 16;

  // sums (+)= 8 pixels times 32 outputs, over `depth` channels and all taps; asks for kLines of every 32 lines at
  // `next`
  template <int kTaps, int kLines>
  static void multiply_tile(const Layout& layout, const BFloat16* first, const BFloat16* second, int64_t depth,
                            const BFloat16* weights, const BFloat16* next, bool add, float* sums) {
    __m512 left[kPixels], right[kPixels];
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i) {
      left[i] = add ? _mm512_load_ps(sums + 16 * i) : _mm512_setzero_ps();
      right[i] = add ? _mm512_load_ps(sums + 16 * (kPixels + i)) : _mm512_setzero_ps();
    }
    constexpr int kSide = kTaps == 9 ? 3 : 1;
    constexpr int64_t kStep = (kLines > 0) ? 2 * kTile : 0;
    for (int64_t c = 0; c < depth; c += kChannels, first += layout.plane, second += layout.plane) {
      for (int line = 0; line < kSide; ++line) {
        for (int column = 0; column < kSide; ++column, weights += 2 * kTile, next += kStep) {
          const int64_t at = line * layout.line + column * kChannels;
          const auto* const a_run = reinterpret_cast<const Isa::Unit*>(first + at);
          const auto* const b_run = reinterpret_cast<const Isa::Unit*>(second + at);
          const auto* const w = reinterpret_cast<const Isa::Unit*>(weights);
#pragma GCC unroll 4
          for (int pair = 0; pair < kChannels / 2; ++pair) {
            if constexpr (kLines > 0) {
              constexpr int kEvery = kChannels / 2 / kLines;
              if (pair % kEvery == 0) {
                _mm_prefetch(reinterpret_cast<const char*>(next + 32 * (pair / kEvery)), _MM_HINT_T0);
              }
            }
            const auto a = reinterpret_cast<__m512bh>(_mm512_load_si512(w + 16 * pair));
            const auto b = reinterpret_cast<__m512bh>(_mm512_load_si512(w + kTile / 2 + 16 * pair));
#pragma GCC unroll 8
            for (int i = 0; i < kPixels; ++i) {
              const auto* const pixel = (i < kRun ? a_run : b_run) + kChannels / 2 * (i % kRun);
              const auto both = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pixel[pair]));
              left[i] = _mm512_dpbf16_ps(left[i], both, a);
              right[i] = _mm512_dpbf16_ps(right[i], both, b);
            }
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i) {
      _mm512_store_ps(sums + 16 * i, left[i]);
      _mm512_store_ps(sums + 16 * (kPixels + i), right[i]);
    }
  }
};

}  // namespace

constinit const ProductKernel kProductAvx512Pairs = make_product_kernel<PairsProduct>("avx512-bf16");

}  // namespace swap::cpu

#endif
