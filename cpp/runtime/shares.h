// A batch in shares, each computed on a thread of its own.
//
// Operators that last some microseconds lose by a second thread: it takes longer to wake than they last. A share of a
// batch goes through all layers on one thread and wakes nobody.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/FunctionRef.h>

#include <cstdint>

#include "runtime/fresh.h"

namespace swap {

// Rows of a batch.
struct Share {
  int64_t first, count;

  at::Tensor of(const at::Tensor& all) const { return all.defined() ? samples_of(all, first, count) : all; }
};

class Shares {
 public:
  // One share, whose layers have all threads.
  static Shares whole(int64_t rows) { return Shares(rows, 1, false); }
  // One a thread, as equal as they can be, whose layers have that thread alone. Of one row alone that is one share, and
  // the other threads help with its layers' loops.
  static Shares apart(int64_t rows);

  int64_t count() const { return count_; }

  // Calls run(index, share) for each, at once, and then(), if no share has failed: on the thread that is through last,
  // which wakes nobody for it either. The one that is through first, where there are others, calls meanwhile(); whether
  // that fails, then() does not ask. What is thread-local in LibTorch (whether gradients are wanted) is as it is here.
  // The first exception is thrown again when all are through.
  void run(
      c10::function_ref<void(int64_t index, Share share)> run, c10::function_ref<void()> then = [] {},
      c10::function_ref<void()> meanwhile = [] {}) const;

  // run(index, share) for each, as above, after common(): on this thread, and with the help of the others.
  void run_after(c10::function_ref<void()> common, c10::function_ref<void(int64_t index, Share share)> run) const;

 private:
  // Where there is one share: with all threads, or with their help.
  void run_one(c10::function_ref<void()> all) const;

  Share share(int64_t index) const {
    const int64_t first = rows_ * index / count_;
    return {first, rows_ * (index + 1) / count_ - first};
  }

  Shares(int64_t rows, int64_t count, bool apart) : rows_(rows), count_(count), apart_(apart) {}

  int64_t rows_, count_;
  bool apart_;
};

}  // namespace swap
