// Vectors of sixteen floats, for the files that are compiled for AVX-512 (F, BW, DQ, VL) and more.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernel.h"

namespace swap::cpu {
namespace {

struct Avx512Math {
  using V = __m512;
  static constexpr int kLanes = 16;

  static V set(float x) { return _mm512_set1_ps(x); }
  static V load(const float* p) { return _mm512_loadu_ps(p); }
  static V load(const BFloat16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static V load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static V load_n(const BFloat16* p, int n) { return widen(_mm256_maskz_loadu_epi16(first(n), p)); }
  static void store(float* p, V x) { _mm512_storeu_ps(p, x); }
  static void store_n(float* p, V x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
  static V rounded(V x) {
    __asm__("" : "+v"(x));
    return x;
  }
  static V add(V a, V b) { return _mm512_add_ps(a, b); }
  static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V max(V a, V b) { return _mm512_max_ps(a, b); }
  static V min(V a, V b) { return _mm512_min_ps(b, a); }  // NaN in a stays: it is the second operand
  static V div(V a, V b) { return _mm512_div_ps(a, b); }
  static float horizontal_max(V x) { return _mm512_reduce_max_ps(x); }
  static float horizontal_sum(V x) { return _mm512_reduce_add_ps(x); }

  static V exp2(V x) {
    x = _mm512_max_ps(set(-126), x);  // NaN stays: it is the second operand
    const V n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = sub(x, n);
    V y = set(0.00015353362f);
    y = fma(y, f, set(0.00133988745f));
    y = fma(y, f, set(0.00961843736f));
    y = fma(y, f, set(0.0555033247f));
    y = fma(y, f, set(0.240226479f));
    y = fma(y, f, set(0.693147203f));
    y = fma(y, f, set(1));
    return _mm512_scalef_ps(y, n);
  }

  static V probability(V x) { return exp2(x); }
  static V where_greater(V a, V b, V x, V y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
  }

  // 32-bit elements; rows and columns in any number, sixteen by sixteen where they fill that.
  static void transpose_bits(const int32_t* from, int64_t stride, int64_t rows, int64_t columns, int32_t* to,
                             int64_t to_stride) {
    for (int64_t r = 0; r < rows; r += 16) {
      for (int64_t c = 0; c < columns; c += 16) {
        const int64_t n = columns - c < 16 ? columns - c : 16, m = rows - r < 16 ? rows - r : 16;
        __m512i x[16], y[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
          x[i] = i < m ? _mm512_maskz_loadu_epi32(first(n), from + (r + i) * stride + c) : _mm512_setzero_si512();
        }
#pragma GCC unroll 8
        for (int i = 0; i < 16; i += 2) {
          y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
          y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 16; i += 4) {
          x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
          x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
          x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
          x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
        }
        // x[4 g + k] has columns k, 4 + k, 8 + k, 12 + k of the rows 4 g .. 4 g + 3, one a 128-bit lane.
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
          const __m512i a = _mm512_shuffle_i32x4(x[k], x[4 + k], 0x88), b = _mm512_shuffle_i32x4(x[k], x[4 + k], 0xdd);
          const __m512i e = _mm512_shuffle_i32x4(x[8 + k], x[12 + k], 0x88);
          const __m512i f = _mm512_shuffle_i32x4(x[8 + k], x[12 + k], 0xdd);
          y[k] = _mm512_shuffle_i32x4(a, e, 0x88);
          y[8 + k] = _mm512_shuffle_i32x4(a, e, 0xdd);
          y[4 + k] = _mm512_shuffle_i32x4(b, f, 0x88);
          y[12 + k] = _mm512_shuffle_i32x4(b, f, 0xdd);
        }
        for (int64_t i = 0; i < n; ++i) _mm512_mask_storeu_epi32(to + (c + i) * to_stride + r, first(m), y[i]);
      }
    }
  }

  static __mmask16 first(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
  static V widen(__m256i bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)); }
};

}  // namespace
}  // namespace swap::cpu
