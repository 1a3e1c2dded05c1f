#include "cpu/kernels.h"

#ifdef SWAP_X86
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace swap::cpu {
namespace {

#ifdef SWAP_X86
// These also look whether the system saves the registers.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

bool has_amx() {
#ifdef __linux__
  if (!has_avx512_bf16()) return false;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool tiles = d >> 24 & 1, bfloat16 = d >> 22 & 1;
  // Linux gives a process the tiles when it asks for them: ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA.
  return tiles && bfloat16 && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
  return false;
#endif
}
#endif

struct Found {
  std::vector<const Kernel*> split;
  std::vector<const FlashKernel*> flash;
  std::vector<const NormKernel*> norm;
  std::vector<const GeluKernel*> gelu;
  std::vector<const ProductKernel*> product;
  const HalvesKernel* halves = nullptr;
  void add(const Kernel& kernel, const FlashKernel& flash_kernel) {
    split.push_back(&kernel);
    flash.push_back(&flash_kernel);
  }
  void add(const NormKernel& kernel, const GeluKernel& gelu_kernel) {
    norm.push_back(&kernel);
    gelu.push_back(&gelu_kernel);
  }
};

Found find(bool bfloat16) {
  Found found;
#ifdef SWAP_X86
  if (bfloat16 && has_amx()) {
    found.add(kAmxBFloat16, kFlashAmxBFloat16);
    found.product.push_back(&kProductAmx);
  }
  if (bfloat16 && has_avx512_bf16()) {
    found.add(kAvx512PairsBFloat16, kFlashAvx512PairsBFloat16);
    found.product.push_back(&kProductAvx512Pairs);
    found.halves = &kHalvesAvx512;
  }
  if (has_avx512() && bfloat16) found.add(kAvx512BFloat16, kFlashAvx512BFloat16);
  if (has_avx512() && !bfloat16) found.add(kAvx512Float, kFlashAvx512Float);
  if (has_avx2() && bfloat16) found.add(kAvx2BFloat16, kFlashAvx2BFloat16);
  if (has_avx2() && !bfloat16) found.add(kAvx2Float, kFlashAvx2Float);
#endif
#ifdef __GNUC__
  if (bfloat16) found.add(kPortableBFloat16, kFlashPortableBFloat16);
  if (!bfloat16) found.add(kPortableFloat, kFlashPortableFloat);
#endif
#ifdef SWAP_X86
  if (bfloat16 && has_avx512_bf16()) found.add(kNormAvx512PairsBFloat16, kGeluAvx512PairsBFloat16);
  if (has_avx512() && bfloat16) found.add(kNormAvx512BFloat16, kGeluAvx512BFloat16);
  if (has_avx512() && !bfloat16) found.add(kNormAvx512Float, kGeluAvx512Float);
  if (has_avx2() && bfloat16) found.add(kNormAvx2BFloat16, kGeluAvx2BFloat16);
  if (has_avx2() && !bfloat16) found.add(kNormAvx2Float, kGeluAvx2Float);
#endif
#ifdef __GNUC__
  if (bfloat16) found.add(kNormPortableBFloat16, kGeluPortableBFloat16);
  if (!bfloat16) found.add(kNormPortableFloat, kGeluPortableFloat);
#endif
  return found;
}

const Found& found(bool bfloat16) {
  static const Found singles = find(false), halves = find(true);
  return bfloat16 ? halves : singles;
}

}  // namespace

const std::vector<const Kernel*>& kernels(bool bfloat16) { return found(bfloat16).split; }
const std::vector<const FlashKernel*>& flash_kernels(bool bfloat16) { return found(bfloat16).flash; }
const std::vector<const NormKernel*>& norm_kernels(bool bfloat16) { return found(bfloat16).norm; }
const std::vector<const GeluKernel*>& gelu_kernels(bool bfloat16) { return found(bfloat16).gelu; }
const std::vector<const ProductKernel*>& product_kernels() { return found(true).product; }
const HalvesKernel* halves_kernel() { return found(true).halves; }

}  // namespace swap::cpu
