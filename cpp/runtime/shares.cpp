#include "runtime/shares.h"

#include <ATen/ThreadLocalState.h>

#include "cpu/parallel.h"

namespace swap {

Shares Shares::apart(int64_t rows) { return Shares(rows, cpu::worker_count(rows), true); }

void Shares::run(c10::function_ref<void(int64_t, Share)> run) const {
  if (!apart_) return run(0, {0, rows_});
  const at::ThreadLocalState state;
  cpu::run_apart(count_, [&](int64_t index) {
    const at::ThreadLocalStateGuard guard(state);
    const int64_t first = rows_ * index / count_, end = rows_ * (index + 1) / count_;
    run(index, {first, end - first});
  });
}

}  // namespace swap
