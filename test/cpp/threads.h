// LibTorch's threads for a test, and what there were afterwards.
#pragma once

#include <ATen/Parallel.h>

struct Threads {
  explicit Threads(int count) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before); }
  int before = at::get_num_threads();
};
