#include "cpu/team.h"

#include <algorithm>
#include <thread>
#include <utility>

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace swap::cpu {
namespace {

using Clock = std::chrono::steady_clock;

// Where there are more threads than cores, whoever is waited for may need this one's.
class Patience {
 public:
  void wait() {
    if (++looks_ % kLooks == 0) return std::this_thread::yield();
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    asm volatile("isb");
#endif
  }

 private:
  static constexpr unsigned kLooks = 1000;  // some 20 microseconds
  unsigned looks_ = 0;
};

}  // namespace

void Team::run(int64_t items, const Run& run) {
  if (size_ == 1 || items <= 1 || open_.load(std::memory_order_relaxed) != 0) {
    for (int64_t item = 0; item < items; ++item) run(item, 0);
    return;
  }
  const auto begin = Clock::now();
  run_ = &run, items_ = items;
  // The leader has the first item, so that there are never more workers than items.
  next_.store(1, std::memory_order_relaxed);
  workers_.store(1, std::memory_order_relaxed);
  open_.store(++loops_);
  take(0, 0);
  // A helper that still finds the loop open has said before that it is busy: these stores and loads are in one order.
  open_.store(0);
  if (busy_.load() != 0) {
    const auto through = Clock::now(), late = through + std::max<Clock::duration>(2 * (through - begin), kPatience);
    for (Patience patience; busy_.load() != 0;) patience.wait();
    held_up_ = held_up_ || Clock::now() > late;
  }
  if (failed_.load(std::memory_order_relaxed)) {
    failed_.store(false, std::memory_order_relaxed);
    std::rethrow_exception(std::exchange(failure_, nullptr));
  }
}

void Team::help() {
  Patience patience;
  for (int64_t seen = 0; !over_.load(std::memory_order_acquire);) {
    const int64_t loop = open_.load(std::memory_order_relaxed);
    if (loop == 0 || loop == seen) {
      patience.wait();
      continue;
    }
    busy_.fetch_add(1);
    if (open_.load() == loop) {
      const int64_t item = next_.fetch_add(1, std::memory_order_relaxed);
      if (item < items_) take(item, workers_.fetch_add(1, std::memory_order_relaxed));
    }
    busy_.fetch_sub(1);
    seen = loop;
  }
}

void Team::wait() {
  for (Patience patience; !over_.load(std::memory_order_acquire);) patience.wait();
}

void Team::take(int64_t first, int64_t worker) {
  try {
    for (int64_t item = first; item < items_; item = next_.fetch_add(1, std::memory_order_relaxed)) {
      (*run_)(item, worker);
    }
  } catch (...) {
    next_.store(items_, std::memory_order_relaxed);  // nobody begins another one
    if (!failed_.exchange(true)) failure_ = std::current_exception();
  }
}

}  // namespace swap::cpu
