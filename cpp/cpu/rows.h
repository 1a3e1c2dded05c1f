// Rows of a tensor in and out of a kernel's own memory, and that memory. Included by one file for each instruction
// set, after its target pragma: everything here is local to that file.
#pragma once

#include <cstring>

#include "cpu/kernel.h"

namespace swap::cpu {
namespace {

// The logit of what is no token, and a maximum of nothing: its part of a map is zero.
constexpr float kNoToken = -1e30f;

// Hands out pieces of the workspace; without one it only counts.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(int64_t count) {
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(T)), 64));
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};

// `count` rows of `width` elements into rows of `row_units` units, with zeros after each row and up to `padded` rows.
template <class T, class Isa>
void load_rows(const T* from, int64_t stride, int64_t width, int64_t count, int64_t padded, typename Isa::Unit* to,
               int64_t row_units) {
  for (int64_t i = 0; i < count; ++i) {
    auto* row = to + i * row_units;
    if constexpr (Isa::kPair == 1) {
      for (int64_t c = 0; c < row_units; c += Isa::kLanes) {
        const int64_t n = width - c;
        Isa::store(row + c, n >= Isa::kLanes ? Isa::load(from + i * stride + c)
                                             : Isa::load_n(from + i * stride + c, n > 0 ? static_cast<int>(n) : 0));
      }
    } else {
      Isa::copy_pairs(row, row_units, from + i * stride, width);
    }
  }
  if (count < padded) std::memset(to + count * row_units, 0, (padded - count) * row_units * sizeof(*to));
}

// `count` rows of floats, `from_stride` apart, times `factor` into rows of `width` elements.
template <class T, class Isa>
void store_rows(const float* from, int64_t from_stride, float factor, int64_t width, int64_t count, T* to,
                int64_t stride) {
  const auto f = Isa::set(factor);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t c = 0; c < width; c += Isa::kLanes) {
      const int64_t n = width - c;
      const auto x = Isa::mul(Isa::load(from + i * from_stride + c), f);
      if (n >= Isa::kLanes) {
        Isa::store(to + i * stride + c, x);
      } else {
        Isa::store_n(to + i * stride + c, x, static_cast<int>(n));
      }
    }
  }
}

}  // namespace
}  // namespace swap::cpu
