// bfloat16 in pairs, for the files that are compiled for AVX512-BF16: a unit of 32 bits is two neighbours along the
// depth of a product, the first in the low half.
#pragma once

#include <cstring>

#include "attention/cpu/avx512_math.h"

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
  static void store_n(BFloat16* p, V x, int n) {
    _mm256_mask_storeu_epi16(p, first(n), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
  }

  // Columns 16 j .. 16 j + 15 of a row of pairs.
  static void store_pairs(Unit* row, int j, V x) { store(reinterpret_cast<BFloat16*>(row) + 16 * j, x); }

  // A row of n elements into `units` pairs, zeros after them.
  static void copy_pairs(Unit* to, int64_t units, const BFloat16* from, int64_t n) {
    for (int64_t c = 0; c < 2 * units; c += 32) {
      const int64_t left = n - c, room = 2 * units - c;
      const __m512i x = _mm512_maskz_loadu_epi16(first32(left), from + c);
      _mm512_mask_storeu_epi16(reinterpret_cast<BFloat16*>(to) + c, first32(room), x);
    }
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
  static __mmask32 first32(int64_t n) {
    return n >= 32 ? 0xffffffffu : n > 0 ? static_cast<__mmask32>((1u << n) - 1) : 0;
  }
};

}  // namespace
}  // namespace swap::cpu
