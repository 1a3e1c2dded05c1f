// The memory of large tensors: kept for the next one of its size, hardly more than has lived at once.
#include "runtime/memory.h"

#include <ATen/ATen.h>

#include <cstdint>
#include <thread>
#include <vector>

#include "checks.h"

#ifdef __linux__

namespace {

at::Tensor bytes(int64_t count) { return at::empty({count}, at::kByte); }
constexpr int64_t kMegabyte = int64_t(1) << 20;

}  // namespace

TEST_CASE("a large tensor's memory is the next one's of about its size") {
  swap::keep_blocks();
  swap::keep_blocks();
  swap::release_kept_blocks();
  const auto before = swap::memory_use();
  auto x = bytes(8 * kMegabyte);
  const void* const where = x.data_ptr();
  CHECK(reinterpret_cast<uintptr_t>(where) % 64 == 0);
  x.fill_(7);
  CHECK(swap::memory_use().live == before.live + 8 * kMegabyte);
  x = at::Tensor();
  CHECK(swap::memory_use().live == before.live);
  CHECK(swap::memory_use().kept == 8 * kMegabyte);
  x = bytes(8 * kMegabyte - 5000);
  CHECK(x.data_ptr() == where);
  CHECK(swap::memory_use().kept == 0);
  const auto small = bytes(100);
  CHECK(swap::memory_use().live == before.live + 8 * kMegabyte);
  x = at::Tensor();
  swap::release_kept_blocks();
  CHECK(swap::memory_use().kept == 0);
  CHECK(swap::memory_use().peak == swap::memory_use().live);
}

TEST_CASE("a thread gets what it has given back itself, rather than what another has since") {
  swap::keep_blocks();
  swap::release_kept_blocks();
  auto x = bytes(kMegabyte), y = bytes(kMegabyte);
  const void *const own = x.data_ptr(), *const others = y.data_ptr();
  x = at::Tensor();
  std::thread([&] { y = at::Tensor(); }).join();
  x = bytes(kMegabyte);
  CHECK(x.data_ptr() == own);
  // But another's rather than the system's.
  y = bytes(kMegabyte);
  CHECK(y.data_ptr() == others);
  x = y = at::Tensor();
  swap::release_kept_blocks();
}

TEST_CASE("small tensors of every size have their bytes to themselves, and their memory is the next one's") {
  swap::keep_blocks();
  const auto live = swap::memory_use().live;
  std::vector<at::Tensor> tensors;
  for (int64_t n = 1; n <= 128 << 10; n += 1 + n / 7) {
    for (const int value : {1, 2}) tensors.push_back(at::full({n}, value, at::kByte));
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    CHECK(reinterpret_cast<uintptr_t>(tensors[i].data_ptr()) % 64 == 0);
    CHECK((tensors[i] == static_cast<int>(1 + i % 2)).all().item<bool>());
  }
  CHECK(swap::memory_use().live == live);
  auto x = bytes(5000);
  const void* const where = x.data_ptr();
  x = at::Tensor();
  CHECK(bytes(4900).data_ptr() == where);
}

TEST_CASE("small tensors may be dropped by another thread, and outlive the one that made them") {
  swap::keep_blocks();
  at::Tensor made;
  std::thread([&] { made = at::full({1000}, 3, at::kByte); }).join();
  CHECK((made == 3).all().item<bool>());
  std::thread([&] { made = at::Tensor(); }).join();
  CHECK(at::full({1000}, 4, at::kByte).sum().item<int64_t>() == 4000);
}

TEST_CASE("memory without an owner, small and large, goes back to where it came from") {
  swap::keep_blocks();
  swap::release_kept_blocks();
  const auto before = swap::memory_use().live;
  auto* const allocator = c10::GetAllocator(at::kCPU);
  void *const small = allocator->raw_allocate(1000), *const large = allocator->raw_allocate(3 * kMegabyte);
  CHECK(swap::memory_use().live == before + 3 * kMegabyte);
  allocator->raw_deallocate(allocator->raw_allocate(0));
  allocator->raw_deallocate(small);
  allocator->raw_deallocate(large);
  CHECK(swap::memory_use().live == before);
  CHECK(swap::memory_use().kept == 3 * kMegabyte);
  swap::release_kept_blocks();
}

TEST_CASE("what is kept hardly adds to the peak") {
  swap::keep_blocks();
  swap::release_kept_blocks();
  const auto before = swap::memory_use().live;
  { const auto a = bytes(40 * kMegabyte), b = bytes(60 * kMegabyte); }
  CHECK(swap::memory_use().kept == 100 * kMegabyte);
  // Neither fits: the one that has waited longest gives way, and then there is room for it.
  const auto c = bytes(70 * kMegabyte);
  const auto use = swap::memory_use();
  CHECK(use.live == before + 70 * kMegabyte);
  CHECK(use.kept == 40 * kMegabyte);
  CHECK(use.live + use.kept <= use.peak + 32 * kMegabyte);
  CHECK(use.peak == before + 100 * kMegabyte);
  // Far too large a block is not taken for a small tensor.
  swap::release_kept_blocks();
  { const auto large = bytes(64 * kMegabyte); }
  const auto d = bytes(2 * kMegabyte);
  CHECK(swap::memory_use().live == before + 72 * kMegabyte);
  swap::release_kept_blocks();
}

TEST_CASE("tensors come and go on many threads") {
  swap::keep_blocks();
  swap::release_kept_blocks();
  const auto before = swap::memory_use().live;
  std::vector<std::thread> threads;
  std::vector<int> sound(4, 0);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        const auto x = at::full({(1 + (i + t) % 3) * kMegabyte}, t + 1, at::kByte);
        sound[t] += (x == t + 1).all().item<bool>();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  for (const int count : sound) CHECK(count == 50);
  CHECK(swap::memory_use().live == before);
  swap::release_kept_blocks();
  CHECK(swap::memory_use().kept == 0);
}

#endif
