// x86-64 with AVX512-BF16: products of bfloat16 pairs, sums in float.
#include "cpu/kernels.h"

#ifdef SWAP_X86

#include <cstring>
#include <type_traits>

#include "cpu/avx512_intrinsics.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")

#include "cpu/attention.h"
#include "cpu/flash.h"
#include "cpu/gelu.h"
#include "cpu/norm.h"
#include "cpu/pairs.h"

namespace swap::cpu {
namespace {

struct Avx512BFloat16 : BFloat16Pairs {
  using U = __m512i;
  static constexpr int kRows = 40, kRowStep = 2, kDepth = 1, kTileRows = 1, kPanel = 5;
  static constexpr int rows_at_once(int vectors) { return vectors == 5 ? 5 : vectors == 4 ? 4 : 8; }

  static void enter() {}
  static void leave() {}

  static U load_units(const Unit* p) { return _mm512_loadu_si512(p); }
  static U broadcast(Unit x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static V multiply_add(U a, U b, V c) {
    return _mm512_dpbf16_ps(c, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }

  static void product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc, int64_t rows,
                      int64_t columns, int64_t depth) {
    broadcast_product<Avx512BFloat16, false>(a, lda, 1, b, ldb, c, ldc, rows, columns, depth);
  }
  static void add_product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc, int64_t rows,
                          int64_t columns, int64_t depth) {
    broadcast_product<Avx512BFloat16, true>(a, lda, 1, b, ldb, c, ldc, rows, columns, depth);
  }
  static void add_transposed_product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc,
                                     int64_t rows, int64_t columns, int64_t depth) {
    broadcast_product<Avx512BFloat16, true>(a, 1, lda, b, ldb, c, ldc, rows, columns, depth);
  }
};

}  // namespace

constinit const Kernel kAvx512PairsBFloat16 = make_kernel<BFloat16, Avx512BFloat16>("avx512-bf16", true);
constinit const FlashKernel kFlashAvx512PairsBFloat16 =
    make_flash_kernel<BFloat16, Avx512BFloat16>("avx512-bf16", true, 512);

constinit const NormKernel kNormAvx512PairsBFloat16 = make_norm_kernel<BFloat16, Avx512BFloat16>(true);

constinit const GeluKernel kGeluAvx512PairsBFloat16 = make_gelu_kernel<BFloat16, Avx512BFloat16>(true);

}  // namespace swap::cpu

#endif
