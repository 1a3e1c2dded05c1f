// The intrinsics for the files that are compiled for AVX-512, each after this and its own target pragma.
#pragma once

#include <immintrin.h>

// Some intrinsics of GCC 12 start from a register that they leave undefined on purpose.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
