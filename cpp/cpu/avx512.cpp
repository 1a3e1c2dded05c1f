// x86-64 with AVX-512: products in float, for bfloat16 too.
#include "cpu/kernels.h"

#ifdef SWAP_X86

#include <cstring>
#include <type_traits>

#include "cpu/avx512_intrinsics.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")

#include "cpu/attention.h"
#include "cpu/avx512_math.h"
#include "cpu/flash.h"
#include "cpu/gelu.h"
#include "cpu/norm.h"

namespace swap::cpu {
namespace {

struct Avx512 : Avx512Math {
  using U = __m512;
  using Unit = float;
  static constexpr int kPair = 1, kRows = 40, kRowStep = 1, kDepth = 1, kTileRows = 1, kPanel = 5;
  // Of the 32 registers, enough sums to hide the latency, each broadcast and column loaded once.
  static constexpr int rows_at_once(int vectors) { return vectors == 5 ? 5 : vectors == 4 ? 4 : 8; }

  static void enter() {}
  static void leave() {}

  using Avx512Math::store;
  using Avx512Math::store_n;
  static void store(BFloat16* p, V x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x)); }
  static void store_n(BFloat16* p, V x, int n) { _mm256_mask_storeu_epi16(p, first(n), narrow(x)); }

  static U load_units(const Unit* p) { return load(p); }
  static U broadcast(Unit x) { return set(x); }
  static V multiply_add(U a, U b, V c) { return fma(a, b, c); }

  static void transpose(const Unit* from, int64_t stride, int64_t rows, int64_t columns, Unit* to, int64_t to_stride) {
    transpose_bits(reinterpret_cast<const int32_t*>(from), stride, rows, columns, reinterpret_cast<int32_t*>(to),
                   to_stride);
  }
  static void product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc, int64_t rows,
                      int64_t columns, int64_t depth) {
    broadcast_product<Avx512, false>(a, lda, 1, b, ldb, c, ldc, rows, columns, depth);
  }
  static void add_product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc, int64_t rows,
                          int64_t columns, int64_t depth) {
    broadcast_product<Avx512, true>(a, lda, 1, b, ldb, c, ldc, rows, columns, depth);
  }
  static void add_transposed_product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc,
                                     int64_t rows, int64_t columns, int64_t depth) {
    broadcast_product<Avx512, true>(a, 1, lda, b, ldb, c, ldc, rows, columns, depth);
  }

 private:
  // To the nearest, ties to even; NaN stays NaN.
  static __m256i narrow(V x) {
    const __m512i u = _mm512_castps_si512(x), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i kept =
        _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
  }
};

}  // namespace

constinit const Kernel kAvx512Float = make_kernel<float, Avx512>("avx512", false);
constinit const Kernel kAvx512BFloat16 = make_kernel<BFloat16, Avx512>("avx512", true);
constinit const FlashKernel kFlashAvx512Float = make_flash_kernel<float, Avx512>("avx512", false, 128);
constinit const FlashKernel kFlashAvx512BFloat16 = make_flash_kernel<BFloat16, Avx512>("avx512", true, 128);

constinit const NormKernel kNormAvx512Float = make_norm_kernel<float, Avx512>(false);
constinit const NormKernel kNormAvx512BFloat16 = make_norm_kernel<BFloat16, Avx512>(true);

constinit const GeluKernel kGeluAvx512Float = make_gelu_kernel<float, Avx512>(false);
constinit const GeluKernel kGeluAvx512BFloat16 = make_gelu_kernel<BFloat16, Avx512>(true);

}  // namespace swap::cpu

#endif
