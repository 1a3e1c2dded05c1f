// Matrix products by broadcasting: C [rows, columns] (+)= A [rows, depth] B [depth, columns], B and C padded to 16
// columns. A's and B's elements are units of 32 bits along the depth: a float, or a pair of bfloat16 that one
// instruction multiplies and adds. So one micro-kernel serves both, and a transposed A is a matter of strides.
// Included by one file for each instruction set, after its target pragma: everything here is local to that file.
#pragma once

#include <cstdint>

#include "cpu/kernel.h"

namespace swap::cpu {
namespace {

template <class Isa, int M, int J, bool kAdd>
inline void micro_kernel(const typename Isa::Unit* a, int64_t a_row, int64_t a_depth, const typename Isa::Unit* b,
                         int64_t ldb, float* c, int64_t ldc, int64_t depth) {
  typename Isa::V sum[M][J];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) sum[i][j] = Isa::set(0);
  }
  for (int64_t k = 0; k < depth; ++k) {
    typename Isa::U column[J];
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) column[j] = Isa::load_units(b + k * ldb + j * Isa::kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const auto row = Isa::broadcast(a[i * a_row + k * a_depth]);
#pragma GCC unroll 16
      for (int j = 0; j < J; ++j) sum[i][j] = Isa::multiply_add(row, column[j], sum[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) {
      // Added at the end: sums of sums lose less than one long sum.
      float* const to = c + i * ldc + j * Isa::kLanes;
      Isa::store(to, kAdd ? Isa::add(Isa::load(to), sum[i][j]) : sum[i][j]);
    }
  }
}

// All rows of J vectors of columns.
template <class Isa, int J, bool kAdd>
inline void column_panel(const typename Isa::Unit* a, int64_t a_row, int64_t a_depth, const typename Isa::Unit* b,
                         int64_t ldb, float* c, int64_t ldc, int64_t rows, int64_t depth) {
  constexpr int M = Isa::rows_at_once(J);
  int64_t i = 0;
  for (; i + M <= rows; i += M) {
    micro_kernel<Isa, M, J, kAdd>(a + i * a_row, a_row, a_depth, b, ldb, c + i * ldc, ldc, depth);
  }
  if constexpr (M > 4) {
    if (i + 4 <= rows) {
      micro_kernel<Isa, 4, J, kAdd>(a + i * a_row, a_row, a_depth, b, ldb, c + i * ldc, ldc, depth);
      i += 4;
    }
  }
  for (; i < rows; ++i) {
    micro_kernel<Isa, 1, J, kAdd>(a + i * a_row, a_row, a_depth, b, ldb, c + i * ldc, ldc, depth);
  }
}

template <class Isa, bool kAdd>
inline void broadcast_product(const typename Isa::Unit* a, int64_t a_row, int64_t a_depth, const typename Isa::Unit* b,
                              int64_t ldb, float* c, int64_t ldc, int64_t rows, int64_t columns, int64_t depth) {
  const int64_t vectors = columns / Isa::kLanes, panels = divide_up(vectors, Isa::kPanel);
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t begin = vectors * p / panels * Isa::kLanes, end = vectors * (p + 1) / panels * Isa::kLanes;
    const auto* panel = b + begin;
    float* out = c + begin;
    switch ((end - begin) / Isa::kLanes) {
      case 1:
        column_panel<Isa, 1, kAdd>(a, a_row, a_depth, panel, ldb, out, ldc, rows, depth);
        break;
      case 2:
        column_panel<Isa, 2, kAdd>(a, a_row, a_depth, panel, ldb, out, ldc, rows, depth);
        break;
      default:
        if constexpr (Isa::kPanel > 2) {
          switch ((end - begin) / Isa::kLanes) {
            case 3:
              column_panel<Isa, 3, kAdd>(a, a_row, a_depth, panel, ldb, out, ldc, rows, depth);
              break;
            case 4:
              column_panel<Isa, 4, kAdd>(a, a_row, a_depth, panel, ldb, out, ldc, rows, depth);
              break;
            default:
              column_panel<Isa, 5, kAdd>(a, a_row, a_depth, panel, ldb, out, ldc, rows, depth);
          }
        }
    }
  }
}

}  // namespace
}  // namespace swap::cpu
