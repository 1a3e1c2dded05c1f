// Numbers of 16 bits by AVX512-BF16: 32 at a time.
#include "cpu/kernels.h"

#ifdef SWAP_X86

#include "cpu/avx512_intrinsics.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")

namespace swap::cpu {
namespace {

// No float16 is so small that it is a denormal float, which the instruction would flush.
__m512i narrowed(__m512i halves) {
  const __m512 low = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
  const __m512 high = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

void to_bfloat16(const uint16_t* from, uint16_t* to, int64_t n) {
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) _mm512_storeu_si512(to + i, narrowed(_mm512_loadu_si512(from + i)));
  const auto rest = static_cast<__mmask32>((uint64_t{1} << (n - i)) - 1);
  _mm512_mask_storeu_epi16(to + i, rest, narrowed(_mm512_maskz_loadu_epi16(rest, from + i)));
}

constexpr int kTaps = 9;

// Channel c's tap p of 32 channels is number 9 c + p of nine registers. Two registers at once are looked through for
// those that are theirs.
struct Turn {
  alignas(64) uint16_t index[kTaps][32];  // within the two
  __mmask32 mine[kTaps][5];

  constexpr Turn() : index{}, mine{} {
    for (int p = 0; p < kTaps; ++p) {
      for (int c = 0; c < 32; ++c) {
        index[p][c] = static_cast<uint16_t>((kTaps * c + p) % 64);
        mine[p][(kTaps * c + p) / 64] |= __mmask32{1} << c;
      }
    }
  }
};

constexpr Turn kTurn;

void turn(const uint16_t* from, uint16_t* to, int64_t channels) {
  for (int64_t c = 0; c < channels; c += 32, from += kTaps * 32) {
    __m512i x[10];
#pragma GCC unroll 9
    for (int i = 0; i < kTaps; ++i) x[i] = _mm512_loadu_si512(from + 32 * i);
    x[9] = x[8];
#pragma GCC unroll 9
    for (int p = 0; p < kTaps; ++p) {
      const __m512i index = _mm512_load_si512(kTurn.index[p]);
      __m512i y = _mm512_maskz_permutex2var_epi16(kTurn.mine[p][0], x[0], index, x[1]);
#pragma GCC unroll 4
      for (int k = 1; k < 5; ++k) {
        y = _mm512_or_si512(y, _mm512_maskz_permutex2var_epi16(kTurn.mine[p][k], x[2 * k], index, x[2 * k + 1]));
      }
      _mm512_storeu_si512(to + p * channels + c, y);
    }
  }
}

}  // namespace

constinit const HalvesKernel kHalvesAvx512{to_bfloat16, turn};

}  // namespace swap::cpu

#endif
