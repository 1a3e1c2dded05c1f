// x86-64 with AVX2 and FMA: products in float, for bfloat16 too.
#include "cpu/kernels.h"

#ifdef SWAP_X86

#include <immintrin.h>

#include <cstring>
#include <type_traits>

#pragma GCC target("avx2,fma")

#include "cpu/attention.h"
#include "cpu/flash.h"
#include "cpu/gelu.h"
#include "cpu/norm.h"

namespace swap::cpu {
namespace {

struct Avx2 {
  using V = __m256;
  using U = __m256;
  using Unit = float;
  static constexpr int kLanes = 8, kPair = 1, kRows = 40, kRowStep = 1, kDepth = 1, kTileRows = 1, kPanel = 2;
  static constexpr int rows_at_once(int) { return 5; }

  static void enter() {}
  static void leave() {}

  static V set(float x) { return _mm256_set1_ps(x); }
  static V load(const float* p) { return _mm256_loadu_ps(p); }
  static V load(const BFloat16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static V load_n(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  static V load_n(const BFloat16* p, int n) {
    alignas(16) uint16_t bits[8] = {};
    for (int i = 0; i < n; ++i) bits[i] = p[i].bits;
    return widen(_mm_load_si128(reinterpret_cast<const __m128i*>(bits)));
  }
  static void store(float* p, V x) { _mm256_storeu_ps(p, x); }
  static void store(BFloat16* p, V x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x)); }
  static void store_n(float* p, V x, int n) { _mm256_maskstore_ps(p, first(n), x); }
  static void store_n(BFloat16* p, V x, int n) {
    alignas(16) uint16_t bits[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(bits), narrow(x));
    for (int i = 0; i < n; ++i) p[i].bits = bits[i];
  }
  static V rounded(V x) {
    __asm__("" : "+x"(x));
    return x;
  }
  static V add(V a, V b) { return _mm256_add_ps(a, b); }
  static V sub(V a, V b) { return _mm256_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm256_mul_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static V max(V a, V b) { return _mm256_max_ps(a, b); }
  static V min(V a, V b) { return _mm256_min_ps(b, a); }  // NaN in a stays: it is the second operand
  static V div(V a, V b) { return _mm256_div_ps(a, b); }
  static float horizontal_max(V x) {
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
  }
  static float horizontal_sum(V x) {
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
  }

  static V exp2(V x) {
    x = _mm256_max_ps(set(-126), x);  // NaN stays: it is the second operand
    const V n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = sub(x, n);
    V y = set(0.00015353362f);
    y = fma(y, f, set(0.00133988745f));
    y = fma(y, f, set(0.00961843736f));
    y = fma(y, f, set(0.0555033247f));
    y = fma(y, f, set(0.240226479f));
    y = fma(y, f, set(0.693147203f));
    y = fma(y, f, set(1));
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return mul(y, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }

  static V probability(V x) { return exp2(x); }
  static V where_greater(V a, V b, V x, V y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GT_OQ)); }

  static U load_units(const Unit* p) { return load(p); }
  static U broadcast(Unit x) { return set(x); }
  static V multiply_add(U a, U b, V c) { return fma(a, b, c); }

  static void transpose(const Unit* from, int64_t stride, int64_t rows, int64_t columns, Unit* to, int64_t to_stride) {
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = 0; r < rows; ++r) to[c * to_stride + r] = from[r * stride + c];
    }
  }
  static void product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc, int64_t rows,
                      int64_t columns, int64_t depth) {
    broadcast_product<Avx2, false>(a, lda, 1, b, ldb, c, ldc, rows, columns, depth);
  }
  static void add_product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc, int64_t rows,
                          int64_t columns, int64_t depth) {
    broadcast_product<Avx2, true>(a, lda, 1, b, ldb, c, ldc, rows, columns, depth);
  }
  static void add_transposed_product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc,
                                     int64_t rows, int64_t columns, int64_t depth) {
    broadcast_product<Avx2, true>(a, 1, lda, b, ldb, c, ldc, rows, columns, depth);
  }

 private:
  static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static V widen(__m128i bits) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)); }
  // To the nearest, ties to even; NaN stays NaN.
  static __m128i narrow(V x) {
    const __m256i u = _mm256_castps_si256(x), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  }
};

}  // namespace

constinit const Kernel kAvx2Float = make_kernel<float, Avx2>("avx2", false);
constinit const Kernel kAvx2BFloat16 = make_kernel<BFloat16, Avx2>("avx2", true);
constinit const FlashKernel kFlashAvx2Float = make_flash_kernel<float, Avx2>("avx2", false, 128);
constinit const FlashKernel kFlashAvx2BFloat16 = make_flash_kernel<BFloat16, Avx2>("avx2", true, 128);

constinit const NormKernel kNormAvx2Float = make_norm_kernel<float, Avx2>(false);
constinit const NormKernel kNormAvx2BFloat16 = make_norm_kernel<BFloat16, Avx2>(true);

constinit const GeluKernel kGeluAvx2Float = make_gelu_kernel<float, Avx2>(false);
constinit const GeluKernel kGeluAvx2BFloat16 = make_gelu_kernel<BFloat16, Avx2>(true);

}  // namespace swap::cpu

#endif
