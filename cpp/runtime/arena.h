// Memory for what every step reads from beginning to end: one piece behind the other in huge pages. In pages of the
// usual size, each read alone, a small model's weights are ten thousand addresses to be looked up a step.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/intrusive_ptr.h>

#include <mutex>

namespace swap {

class Arena : public c10::intrusive_ptr_target {
 public:
  using Ptr = c10::intrusive_ptr<Arena>;

  // [n] of bfloat16, aligned to a cache line, not filled; its memory stays as long as the tensor. On any thread.
  at::Tensor take(int64_t n) {
    const std::lock_guard lock(mutex_);
    if (n > kChunk / 4) return at::empty({n}, at::kBFloat16);  // huge pages of its own
    if (!chunk_.defined() || used_ + n > kChunk) {
      chunk_ = at::empty({kChunk}, at::kBFloat16);
      used_ = 0;
    }
    const auto piece = chunk_.narrow(0, used_, n);
    used_ += (n + kLine - 1) / kLine * kLine;
    return piece;
  }

 private:
  static constexpr int64_t kChunk = int64_t(8) << 20, kLine = 32;  // numbers: 16 MB, 64 bytes

  std::mutex mutex_;
  at::Tensor chunk_;
  int64_t used_ = 0;
};

}  // namespace swap
