// Memory that a kernel needs while it runs, without a tensor around it.
#pragma once

#include <c10/core/Allocator.h>

#include <cstddef>
#include <cstdint>

namespace swap {

// n numbers, aligned to a cache line and uninitialised; of n = 0 nothing.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t n) {
    if (n > 0) memory_ = c10::GetAllocator(c10::kCPU)->allocate(static_cast<size_t>(n) * sizeof(T));
  }

  T* data() const { return static_cast<T*>(memory_.get()); }
  T& operator[](int64_t i) const { return data()[i]; }

 private:
  c10::DataPtr memory_;
};

}  // namespace swap
