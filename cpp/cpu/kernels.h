// The CPU kernels (split cross-attention, self-attention, normalisation, GELU, products, reading weights), and which of
// them this processor has.
#pragma once

#include <vector>

#include "cpu/flash_kernel.h"
#include "cpu/gelu_kernel.h"
#include "cpu/halves_kernel.h"
#include "cpu/kernel.h"
#include "cpu/norm_kernel.h"
#include "cpu/product_kernel.h"

// One file for each instruction set, compiled for it by a pragma that only GCC knows.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SWAP_X86 1
#endif

namespace swap::cpu {

extern const Kernel kPortableFloat, kPortableBFloat16;
extern const Kernel kAvx2Float, kAvx2BFloat16;
extern const Kernel kAvx512Float, kAvx512BFloat16;
extern const Kernel kAvx512PairsBFloat16;
extern const Kernel kAmxBFloat16;

extern const FlashKernel kFlashPortableFloat, kFlashPortableBFloat16;
extern const FlashKernel kFlashAvx2Float, kFlashAvx2BFloat16;
extern const FlashKernel kFlashAvx512Float, kFlashAvx512BFloat16;
extern const FlashKernel kFlashAvx512PairsBFloat16;
extern const FlashKernel kFlashAmxBFloat16;

extern const NormKernel kNormPortableFloat, kNormPortableBFloat16;
extern const NormKernel kNormAvx2Float, kNormAvx2BFloat16;
extern const NormKernel kNormAvx512Float, kNormAvx512BFloat16;
extern const NormKernel kNormAvx512PairsBFloat16;

extern const GeluKernel kGeluPortableFloat, kGeluPortableBFloat16;
extern const GeluKernel kGeluAvx2Float, kGeluAvx2BFloat16;
extern const GeluKernel kGeluAvx512Float, kGeluAvx512BFloat16;
extern const GeluKernel kGeluAvx512PairsBFloat16;

extern const ProductKernel kProductAmx, kProductAvx512Pairs;

extern const HalvesKernel kHalvesAvx512;

// Those that run on this processor, the fastest first.
const std::vector<const Kernel*>& kernels(bool bfloat16);
const std::vector<const FlashKernel*>& flash_kernels(bool bfloat16);
const std::vector<const NormKernel*>& norm_kernels(bool bfloat16);
const std::vector<const GeluKernel*>& gelu_kernels(bool bfloat16);

// Of bfloat16; empty where LibTorch's are as fast.
const std::vector<const ProductKernel*>& product_kernels();

// Null where there is none.
const HalvesKernel* halves_kernel();

}  // namespace swap::cpu
