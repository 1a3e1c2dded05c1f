// Which device, dtype and threads an engine computes with.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "engine.h"

namespace swap {

struct Compute {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
  int64_t threads = 1;
};

// Throws SWAP_DEVICE_UNAVAILABLE, SWAP_DEVICE_DTYPE, SWAP_DEVICE_THREADS.
Compute resolve_compute(const LoadRequest& request);

std::string dtype_name(at::ScalarType dtype);
std::string cpu_features();

// Bytes of the device's memory that can still be taken, on a CPU without swapping; a guess where the system does not
// say.
int64_t available_memory(at::Device device);

// Counts the engines that hold a thread setting: LibTorch's CPU threads are the process's, not the engine's.
class ThreadLease {
 public:
  ThreadLease() = default;
  ~ThreadLease();
  ThreadLease(const ThreadLease&) = delete;
  ThreadLease& operator=(const ThreadLease&) = delete;
  // Throws SWAP_DEVICE_THREADS when another engine of this process runs with another count.
  int64_t take(int64_t threads);

 private:
  bool held_ = false;
};

}  // namespace swap
