// Any processor that the compiler has vectors of four floats for (SSE2, NEON).
#include "cpu/kernels.h"

#if defined(__GNUC__)

#include "cpu/attention.h"
#include "cpu/flash.h"
#include "cpu/gelu.h"
#include "cpu/norm.h"

namespace swap::cpu {
namespace {

struct Portable {
  typedef float V __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));
  using U = V;
  using Unit = float;
  static constexpr int kLanes = 4, kPair = 1, kRows = 40, kRowStep = 1, kDepth = 1, kTileRows = 1, kPanel = 2;
  static constexpr int rows_at_once(int) { return 5; }

  static void enter() {}
  static void leave() {}

  static V set(float x) { return V{x, x, x, x}; }
  static V load(const float* p) {
    V x;
    std::memcpy(&x, p, sizeof x);
    return x;
  }
  static V load(const BFloat16* p) { return load_n(p, 4); }
  static V load_n(const float* p, int n) {
    V x = set(0);
    for (int i = 0; i < n; ++i) x[i] = p[i];
    return x;
  }
  static V load_n(const BFloat16* p, int n) {
    I bits = {0, 0, 0, 0};
    for (int i = 0; i < n; ++i) bits[i] = static_cast<int32_t>(static_cast<uint32_t>(p[i].bits) << 16);
    return reinterpret_cast<V>(bits);
  }
  static void store(float* p, V x) { std::memcpy(p, &x, sizeof x); }
  static void store(BFloat16* p, V x) { store_n(p, x, 4); }
  static void store_n(float* p, V x, int n) {
    for (int i = 0; i < n; ++i) p[i] = x[i];
  }
  static void store_n(BFloat16* p, V x, int n) {
    const I bits = reinterpret_cast<I>(x);
    for (int i = 0; i < n; ++i) {
      const auto u = static_cast<uint32_t>(bits[i]);
      const uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16, quiet = u >> 16 | 0x40;
      p[i].bits = static_cast<uint16_t>(x[i] == x[i] ? rounded : quiet);
    }
  }
  static V rounded(V x) {
#ifdef __FMA__
    __asm__("" : "+x"(x));
#elif defined(__aarch64__)
    __asm__("" : "+w"(x));
#endif
    return x;
  }
  static V add(V a, V b) { return a + b; }
  static V sub(V a, V b) { return a - b; }
  static V mul(V a, V b) { return a * b; }
  static V fma(V a, V b, V c) { return a * b + c; }
  static V max(V a, V b) { return a > b ? a : b; }
  static V min(V a, V b) { return a > b ? b : a; }
  static V div(V a, V b) { return a / b; }
  static float horizontal_max(V x) {
    const float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
    return a > b ? a : b;
  }
  static float horizontal_sum(V x) { return (x[0] + x[1]) + (x[2] + x[3]); }

  static V exp2(V x) {
    const V least = set(-126);
    x = x < least ? least : x;        // NaN stays
    const V magic = set(12582912.f);  // 1.5 * 2^23: adding it rounds to integers
    const V rounded = x + magic, n = rounded - magic, f = x - n;
    V y = set(0.00015353362f);
    y = y * f + 0.00133988745f;
    y = y * f + 0.00961843736f;
    y = y * f + 0.0555033247f;
    y = y * f + 0.240226479f;
    y = y * f + 0.693147203f;
    y = y * f + 1.f;
    const I exponent = (reinterpret_cast<I>(rounded) - 0x4b400000 + 127) << 23;
    return y * reinterpret_cast<V>(exponent);
  }

  static V probability(V x) { return exp2(x); }
  static V where_greater(V a, V b, V x, V y) { return a > b ? x : y; }

  static U load_units(const Unit* p) { return load(p); }
  static U broadcast(Unit x) { return set(x); }
  static V multiply_add(U a, U b, V c) { return a * b + c; }

  static void transpose(const Unit* from, int64_t stride, int64_t rows, int64_t columns, Unit* to, int64_t to_stride) {
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = 0; r < rows; ++r) to[c * to_stride + r] = from[r * stride + c];
    }
  }
  static void product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc, int64_t rows,
                      int64_t columns, int64_t depth) {
    broadcast_product<Portable, false>(a, lda, 1, b, ldb, c, ldc, rows, columns, depth);
  }
  static void add_product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc, int64_t rows,
                          int64_t columns, int64_t depth) {
    broadcast_product<Portable, true>(a, lda, 1, b, ldb, c, ldc, rows, columns, depth);
  }
  static void add_transposed_product(const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc,
                                     int64_t rows, int64_t columns, int64_t depth) {
    broadcast_product<Portable, true>(a, 1, lda, b, ldb, c, ldc, rows, columns, depth);
  }
};

}  // namespace

constinit const Kernel kPortableFloat = make_kernel<float, Portable>("portable", false);
constinit const Kernel kPortableBFloat16 = make_kernel<BFloat16, Portable>("portable", true);
constinit const FlashKernel kFlashPortableFloat = make_flash_kernel<float, Portable>("portable", false, 0);
constinit const FlashKernel kFlashPortableBFloat16 = make_flash_kernel<BFloat16, Portable>("portable", true, 0);

constinit const NormKernel kNormPortableFloat = make_norm_kernel<float, Portable>(false);
constinit const NormKernel kNormPortableBFloat16 = make_norm_kernel<BFloat16, Portable>(true);

constinit const GeluKernel kGeluPortableFloat = make_gelu_kernel<float, Portable>(false);
constinit const GeluKernel kGeluPortableBFloat16 = make_gelu_kernel<BFloat16, Portable>(true);

}  // namespace swap::cpu

#endif
