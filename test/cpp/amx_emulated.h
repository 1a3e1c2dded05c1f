#pragma once

#include "cpu/kernels.h"

#ifdef SWAP_X86
namespace swap::cpu {
extern const ProductKernel kProductAmxEmulated;  // one product at a time; needs AVX512-BF16
}
#endif
