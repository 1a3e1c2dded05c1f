#include "runtime/memory.h"

#ifdef __linux__

#include <c10/core/Allocator.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <unordered_map>

#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "runtime/small_blocks.h"

namespace swap {
namespace {

constexpr size_t kPage = 4096, kHugePage = size_t(2) << 20;
// What may be kept beyond the peak. A small model's tensors are many and of many sizes: without it a hundred blocks a
// step went back to the system and came again as pages to be zeroed.
constexpr size_t kSlack = size_t(32) << 20;

// For what mostly takes less than a microsecond: who comes meanwhile looks again some times before it sleeps. To sleep
// and to be woken takes fifty times as long, and shares of a batch meet here several times a step.
class BriefMutex {
 public:
  void lock() {
    for (int looks = 0; looks < 200; ++looks) {
      if (mutex_.try_lock()) return;
#ifdef __SSE2__
      _mm_pause();
#endif
    }
    mutex_.lock();
  }
  void unlock() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

thread_local int small_pages = 0;  // how many SmallPages live

void* map_pages(size_t size) {
  // More than is needed, so that it can begin where a huge page does.
  const size_t extra = size >= kHugePage && small_pages == 0 ? kHugePage : 0;
  void* const mapped = mmap(nullptr, size + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  if (extra == 0) return mapped;
  const auto begin = reinterpret_cast<uintptr_t>(mapped), aligned = (begin + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > begin) munmap(mapped, aligned - begin);
  if (begin + extra > aligned) munmap(reinterpret_cast<void*>(aligned + size), begin + extra - aligned);
  auto* const data = reinterpret_cast<void*>(aligned);
  madvise(data, size, MADV_HUGEPAGE);
  return data;
}

class BlockAllocator final : public c10::Allocator {
 public:
  explicit BlockAllocator(c10::Allocator* other) : other_(other) {}

  c10::DataPtr allocate(size_t n) override {
    if (n == 0) return {nullptr, at::Device(at::kCPU)};
    const bool small = n <= kSmallBlock;
    void* const data = small ? take_small_block(n) : take((n + kPage - 1) / kPage * kPage);
    TORCH_CHECK_WITH(OutOfMemoryError, data, "can't allocate memory: ", n, " bytes were asked for");
    return {data, data, small ? &give_small_block : &give_back, at::Device(at::kCPU)};
  }

  // oneDNN's scratch memory comes without an owner, so this must tell one from the other; for no bytes there is none.
  c10::DeleterFnPtr raw_deleter() const override {
    return [](void* data) {
      if (data) is_small_block(data) ? give_small_block(data) : give_back(data);
    };
  }

  void copy_data(void* to, const void* from, size_t n) const override { std::memcpy(to, from, n); }

  MemoryUse use() {
    const std::lock_guard lock(mutex_);
    return use_;
  }

  void release() {
    const std::lock_guard lock(mutex_);
    shrink(0);
    use_.peak = use_.live;
  }

 private:
  static void give_back(void* data);

  void* take(size_t size) {
    const std::lock_guard lock(mutex_);
    void* data = nullptr;
    if (const auto best = find(size); best != kept_.end()) {
      size = best->first;
      data = best->second.data;
      use_.kept -= size;
      kept_.erase(best);
    } else {
      // Keeping must not cost: what lives and what is kept stay below what has lived at once, or little above it.
      const size_t most = std::max(use_.peak, use_.live + size) + kSlack;
      shrink(most - use_.live - size);
      data = map_pages(size);
      if (!data) {
        shrink(0);
        data = map_pages(size);
      }
      if (!data) return nullptr;
    }
    use_.live += size;
    use_.peak = std::max(use_.peak, use_.live);
    live_.emplace(data, size);
    return data;
  }

  void keep(void* data) {
    std::unique_lock lock(mutex_);
    const auto found = live_.find(data);
    if (found == live_.end()) {  // from before this allocator
      lock.unlock();
      other_->raw_deleter()(data);
      return;
    }
    const size_t size = found->second;
    live_.erase(found);
    use_.live -= size;
    use_.kept += size;
    kept_.emplace_hint(kept_.lower_bound(size), size, Waiting{data, ++given_back_, this_thread()});
  }

  // Lets go of blocks, those that have waited longest first, until `most` bytes are kept.
  void shrink(size_t most) {
    if (most == 0) {
      for (const auto& [size, block] : kept_) munmap(block.data, size);
      kept_.clear();
      use_.kept = 0;
    }
    while (use_.kept > most) {
      const auto oldest = std::min_element(
          kept_.begin(), kept_.end(), [](const auto& a, const auto& b) { return a.second.since < b.second.since; });
      munmap(oldest->second.data, oldest->first);
      use_.kept -= oldest->first;
      kept_.erase(oldest);
    }
  }

  struct Waiting {
    void* data;
    uint64_t since;      // how many had been given back by then
    const void* thread;  // that gave it back
  };
  using Kept = std::multimap<size_t, Waiting>;  // by size; of one size the newest first

  // One that fits: this thread's own where there is one, else the smallest. What another thread has written lies in its
  // core's caches, and shares of a batch would pass their blocks to and fro.
  Kept::iterator find(size_t size) {
    const auto first = kept_.lower_bound(size);
    auto block = first;
    for (; block != kept_.end() && block->first <= size + size / 8; ++block) {
      if (block->second.thread == this_thread()) return block;
    }
    return block == first ? kept_.end() : first;
  }

  // Differs from that of all other threads that live.
  static const void* this_thread() { return &small_pages; }

  c10::Allocator* other_;  // LibTorch's own
  BriefMutex mutex_;
  std::unordered_map<void*, size_t> live_;
  Kept kept_;
  uint64_t given_back_ = 0;
  MemoryUse use_;
};

// Never destroyed: tensors may outlive everything else.
BlockAllocator* allocator = nullptr;

void BlockAllocator::give_back(void* data) { allocator->keep(data); }

}  // namespace

void keep_blocks() {
  static const bool done = [] {
    allocator = new BlockAllocator(c10::GetAllocator(at::kCPU));
    c10::SetAllocator(at::kCPU, allocator, /*priority=*/1);
    return true;
  }();
  (void)done;
}

void release_kept_blocks() {
  if (allocator) allocator->release();
  release_small_blocks();
}

SmallPages::SmallPages() { ++small_pages; }
SmallPages::~SmallPages() { --small_pages; }

void take_pages(void* data, size_t size) {
#ifdef MADV_POPULATE_WRITE
  const auto begin = reinterpret_cast<uintptr_t>(data) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), reinterpret_cast<uintptr_t>(data) + size - begin, MADV_POPULATE_WRITE);
#endif
}

MemoryUse memory_use() { return allocator ? allocator->use() : MemoryUse(); }

}  // namespace swap

#else

namespace swap {
void keep_blocks() {}
void release_kept_blocks() {}
void take_pages(void*, size_t) {}
SmallPages::SmallPages() = default;
SmallPages::~SmallPages() = default;
MemoryUse memory_use() { return {}; }
}  // namespace swap

#endif
