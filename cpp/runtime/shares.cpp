#include "runtime/shares.h"

#include <ATen/ThreadLocalState.h>

#include <atomic>

#include "cpu/parallel.h"

namespace swap {

Shares Shares::apart(int64_t rows) { return Shares(rows, cpu::worker_count(rows), true); }

void Shares::run(c10::function_ref<void(int64_t, Share)> run, c10::function_ref<void()> then,
                 c10::function_ref<void()> meanwhile) const {
  if (count_ == 1) {
    return run_one([&] {
      run(0, share(0));
      then();
    });
  }
  std::atomic<int64_t> left = count_;
  const at::ThreadLocalState state;
  cpu::run_apart(count_, [&](int64_t index) {
    const at::ThreadLocalStateGuard guard(state);
    run(index, share(index));
    const int64_t others = left.fetch_sub(1) - 1;
    if (others == 0) {
      then();
    } else if (others == count_ - 1) {
      meanwhile();
    }
  });
}

void Shares::run_after(c10::function_ref<void()> common, c10::function_ref<void(int64_t, Share)> run) const {
  if (count_ == 1) {
    return run_one([&] {
      common();
      run(0, share(0));
    });
  }
  const at::ThreadLocalState state;
  cpu::run_led(common, count_, [&](int64_t index) {
    const at::ThreadLocalStateGuard guard(state);
    run(index, share(index));
  });
}

void Shares::run_one(c10::function_ref<void()> all) const { apart_ ? cpu::run_led(all) : all(); }

}  // namespace swap
