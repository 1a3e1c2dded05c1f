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
  static constexpr int kPixels = 8, kTiles = 16;
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
      // Meanwhile the next ones come, a part with each tile: from memory they would take as long as the products.
      const auto* next = reinterpret_cast<const char*>(weights + size);
      const int64_t lines = divide_up(size * int64_t(sizeof(BFloat16)) / 64, tiles);
      for (int i = 0; i < tiles; ++i) {
        for (int64_t j = 0; j < lines; ++j, next += 64) _mm_prefetch(next, _MM_HINT_T0);
        multiply_tile<kTaps>(layout, x[i] + c / kChannels * layout.plane, depth, weights, c > 0, sums + i * kSums);
      }
      weights += size;
    }
  }

 private:
  static constexpr int kSums = 2 * kPixels * 16;

  // sums (+)= 8 pixels times 32 outputs, over `depth` channels and all taps
  template <int kTaps>
  static void multiply_tile(const Layout& layout, const BFloat16* x, int64_t depth, const BFloat16* weights, bool add,
                            float* sums) {
    __m512 left[kPixels], right[kPixels];
#pragma GCC unroll 8
    for (int i = 0; i < kPixels; ++i) {
      left[i] = add ? _mm512_load_ps(sums + 16 * i) : _mm512_setzero_ps();
      right[i] = add ? _mm512_load_ps(sums + 16 * (kPixels + i)) : _mm512_setzero_ps();
    }
    constexpr int kSide = kTaps == 9 ? 3 : 1;
    for (int64_t c = 0; c < depth; c += kChannels, x += layout.plane) {
      for (int line = 0; line < kSide; ++line) {
        for (int column = 0; column < kSide; ++column, weights += 2 * kTile) {
          const auto* const pixels = reinterpret_cast<const Isa::Unit*>(x + line * layout.line + column * kChannels);
          const auto* const w = reinterpret_cast<const Isa::Unit*>(weights);
#pragma GCC unroll 4
          for (int pair = 0; pair < kChannels / 2; ++pair) {
            const auto a = reinterpret_cast<__m512bh>(_mm512_load_si512(w + 16 * pair));
            const auto b = reinterpret_cast<__m512bh>(_mm512_load_si512(w + kTile / 2 + 16 * pair));
#pragma GCC unroll 8
            for (int i = 0; i < kPixels; ++i) {
              const auto both = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pixels[kChannels / 2 * i + pair]));
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
