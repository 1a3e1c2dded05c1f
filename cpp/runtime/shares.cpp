#include "runtime/shares.h"

#include <ATen/ThreadLocalState.h>

#include <atomic>

#include "cpu/parallel.h"

namespace swap {

Shares Shares::apart(int64_t rows) { return Shares(rows, cpu::worker_count(rows), true); }

void Shares::run(c10::function_ref<void(int64_t, Share)> run, c10::function_ref<void()> then,
                 c10::function_ref<void()> meanwhile) const {
  if (!apart_) {
    run(0, {0, rows_});
    return then();
  }
  std::atomic<int64_t> left = count_;
  const at::ThreadLocalState state;
  cpu::run_apart(count_, [&](int64_t index) {
    const at::ThreadLocalStateGuard guard(state);
    const int64_t first = rows_ * index / count_, end = rows_ * (index + 1) / count_;
    run(index, {first, end - first});
    const int64_t others = left.fetch_sub(1) - 1;
    if (others == 0) {
      then();
    } else if (others == count_ - 1) {
      meanwhile();
    }
  });
}

}  // namespace swap
