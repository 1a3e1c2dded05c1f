#include "runtime/small_blocks.h"

#ifdef __linux__

#include <array>
#include <bit>
#include <cstdlib>
#include <vector>

namespace swap {
namespace {

// A block begins with a line of its own: what size it is of.
constexpr size_t kLine = 64;
// Sizes: four from each power of two to the next, from 64 bytes on.
constexpr int kSizes = 4 * (std::countr_zero(kSmallBlock) - std::countr_zero(kLine)) + 1;
// Bytes that a thread keeps at most; none where AddressSanitizer looks at what is free.
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kMost = 0;
#else
constexpr size_t kMost = size_t(16) << 20;
#endif

struct Header {
  int size;
};

int size_of(size_t n) {
  if (n <= kLine) return 0;
  const int power = std::bit_width(n - 1) - 1;  // 2^power < n <= 2^(power + 1)
  const size_t quarter = size_t(1) << (power - 2);
  return 4 * (power - std::countr_zero(kLine)) + static_cast<int>((n - (size_t(1) << power) + quarter - 1) / quarter);
}

constexpr size_t bytes_of(int size) {
  const size_t power = kLine << (size / 4);
  return power + power / 4 * static_cast<size_t>(size % 4);
}

class Kept {
 public:
  ~Kept() {
    release();
    gone = true;
  }

  void* take(int size) {
    auto& blocks = blocks_[size];
    if (blocks.empty()) return nullptr;
    void* const data = blocks.back();
    blocks.pop_back();
    bytes_ -= bytes_of(size);
    return data;
  }

  bool keep(void* data, int size) {
    if (bytes_ + bytes_of(size) > kMost) return false;
    blocks_[size].push_back(data);
    bytes_ += bytes_of(size);
    return true;
  }

  void release() {
    for (auto& blocks : blocks_) {
      for (void* const data : blocks) std::free(static_cast<char*>(data) - kLine);
      blocks.clear();
    }
    bytes_ = 0;
  }

  // A thread's last tensors may outlive what it keeps.
  static thread_local bool gone;

 private:
  std::array<std::vector<void*>, kSizes> blocks_;
  size_t bytes_ = 0;
};

thread_local bool Kept::gone = false;
thread_local Kept kept;

}  // namespace

void* take_small_block(size_t n) {
  const int size = size_of(n);
  if (!Kept::gone) {
    if (void* const data = kept.take(size)) return data;
  }
  void* block = nullptr;
  if (posix_memalign(&block, 2 * kLine, kLine + bytes_of(size)) != 0) return nullptr;
  static_cast<Header*>(block)->size = size;
  return static_cast<char*>(block) + kLine;
}

void give_small_block(void* data) {
  auto* const block = static_cast<char*>(data) - kLine;
  const int size = reinterpret_cast<const Header*>(block)->size;
  if (Kept::gone || !kept.keep(data, size)) std::free(block);
}

void release_small_blocks() {
  if (!Kept::gone) kept.release();
}

}  // namespace swap

#endif
