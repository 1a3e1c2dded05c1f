// bfloat16 in pairs, for the files that are compiled for AVX512-BF16: a unit of 32 bits is two neighbours along the
// depth of a product, the first in the low half.
#pragma once

#include <cstring>

#include "cpu/avx512_math.h"

namespace swap::cpu {
namespace {

struct BFloat16Pairs : Avx512Math {
  using Unit = uint32_t;
  static constexpr int kPair = 2;

  using Avx512Math::store;
  using Avx512Math::store_n;
  static void store(BFloat16* p, V x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
  }
  // Stores with a mask are slow where they are microcode; 8 is what heads of 40 leave over.
  static void store_n(BFloat16* p, V x, int n) {
    const auto rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
    if (n == 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(rounded));
    } else {
      _mm256_mask_storeu_epi16(p, first(n), rounded);
    }
  }

  // 2^x to a hundredth of what rounding to bfloat16 does to it.
  static V probability(V x) {
    const V f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // x less the integer below it
    V y = set(0.0135341717f);
    y = fma(y, f, set(0.0520114606f));
    y = fma(y, f, set(0.241442757f));
    y = fma(y, f, set(0.693003834f));
    y = fma(y, f, set(1.00000259f));
    return _mm512_scalef_ps(y, x);
  }

  // Columns 16 j .. 16 j + 15 of two rows of pairs.
  static void store_two_rows(Unit* first_row, Unit* second_row, int j, V x, V y) {
    const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(y, x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(first_row + 8 * j), _mm512_castsi512_si256(both));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(second_row + 8 * j), _mm512_extracti64x4_epi64(both, 1));
  }

  // Two rows of 16 as a row of pairs: to[c] = (x_c, y_c).
  static void store_interleaved(Unit* to, V x, V y) {
    alignas(64) static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(y, x));
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), both));
  }

  // Columns 16 j .. 16 j + 15 of a row of pairs.
  static void store_pairs(Unit* row, int j, V x) { store(reinterpret_cast<BFloat16*>(row) + 16 * j, x); }

  // A row of n elements into `units` pairs, zeros after them.
  static void copy_pairs(Unit* to, int64_t units, const BFloat16* from, int64_t n) {
    auto* const row = reinterpret_cast<BFloat16*>(to);
    int64_t c = 0;
    for (; c + 32 <= n; c += 32) _mm512_storeu_si512(row + c, _mm512_loadu_si512(from + c));
    for (; c + 16 <= 2 * units; c += 16) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(row + c),
                          _mm256_maskz_loadu_epi16(first(n > c ? n - c : 0), from + c));
    }
    for (; c < 2 * units; c += 2) to[c / 2] = pair(from, c, n);
  }

  // Rows of `stride` pairs, one after another -> pairs of rows: to[i][c] = (row 2 i, row 2 i + 1) at column c.
  static void interleave(const Unit* from, int64_t stride, int64_t rows, int64_t columns, Unit* to) {
    for (int64_t i = 0; i < rows / 2; ++i) {
      const auto* first_row = reinterpret_cast<const BFloat16*>(from + 2 * i * stride);
      const auto* second_row = reinterpret_cast<const BFloat16*>(from + (2 * i + 1) * stride);
      for (int64_t c = 0; c < columns; c += 16) {
        const __m512i a = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(first_row + c)));
        const __m512i b = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(second_row + c)));
        _mm512_storeu_si512(to + i * columns + c, _mm512_or_si512(a, _mm512_slli_epi32(b, 16)));
      }
    }
  }

  static void transpose(const Unit* from, int64_t stride, int64_t rows, int64_t columns, Unit* to, int64_t to_stride) {
    transpose_bits(reinterpret_cast<const int32_t*>(from), stride, rows, columns, reinterpret_cast<int32_t*>(to),
                   to_stride);
  }

 private:
  static Unit pair(const BFloat16* from, int64_t c, int64_t n) {
    return (c < n ? from[c].bits : 0) | (c + 1 < n ? static_cast<Unit>(from[c + 1].bits) << 16 : 0);
  }
};

}  // namespace
}  // namespace swap::cpu
