#include "runtime/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <optional>

#include "attention/fused_cuda.h"
#include "runtime/error.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#endif

namespace swap {
namespace {

struct Features {
  bool avx2 = false, avx512f = false, avx512_bf16 = false, amx_bf16 = false;
};

Features detect() {
  Features f;
#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
  f.avx2 = __builtin_cpu_supports("avx2");
  f.avx512f = __builtin_cpu_supports("avx512f");
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) f.avx512_bf16 = f.avx512f && (a >> 5 & 1);
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) f.amx_bf16 = f.avx512f && (d >> 22 & 1);
#endif
  return f;
}

std::mutex threads_mutex;
int64_t threads_value = 0, threads_holders = 0;

}  // namespace

std::string cpu_features() {
  const Features f = detect();
  std::string s;
  if (f.avx2) s += "avx2 ";
  if (f.avx512f) s += "avx512f ";
  if (f.avx512_bf16) s += "avx512_bf16 ";
  if (f.amx_bf16) s += "amx_bf16 ";
  if (!s.empty()) s.pop_back();
  return s;
}

std::string dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    default:
      return "float32";
  }
}

namespace {

// The GPU that was asked for. 'auto' asks for one where there is one.
std::optional<at::Device> find_cuda(const std::string& name) {
  const bool automatic = name == "auto";
  if (!automatic && name != "cuda" && name.rfind("cuda:", 0) != 0) return {};
  const auto count = at::hasCUDA() && cuda_launcher() ? static_cast<int>(at::getNumGPUs()) : 0;
  if (automatic && count == 0) return {};
  const char* const hint = "use device 'cpu' or 'auto', or run `npx swap doctor` to see why";
  if (count == 0) {
    const char* why = cuda_launcher() ? "LibTorch finds no GPU" : "this is the engine for CPUs";
    throw Error("SWAP_DEVICE_UNAVAILABLE", "device '" + name + "' is not there: " + why, hint);
  }
  int index = 0;
  if (name.rfind("cuda:", 0) == 0) {
    const auto digits = name.substr(5);
    const bool number = !digits.empty() && digits.size() < 4 && digits.find_first_not_of("0123456789") == digits.npos;
    index = number ? std::stoi(digits) : -1;
  }
  if (index < 0 || index >= count) {
    throw Error("SWAP_DEVICE_UNAVAILABLE",
                "device '" + name + "' is not there: this machine has " + std::to_string(count) + " GPU(s)", hint);
  }
  return at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index));
}

}  // namespace

Compute resolve_compute(const LoadRequest& request) {
  Compute compute;
  if (const auto gpu = find_cuda(request.device)) {
    compute.device = *gpu;
  } else if (request.device != "cpu" && request.device != "auto") {
    throw Error("SWAP_DEVICE_UNAVAILABLE", "unknown device '" + request.device + "'",
                "use 'auto', 'cpu', 'cuda' or 'cuda:N'");
  }
  const bool cuda = compute.device.is_cuda();
  const Features f = detect();
  if (request.dtype == "auto") {
    // GPUs from before sm_80 have no fast bfloat16.
    if (cuda) {
      compute.dtype = cuda_launcher()->takes(compute.device) ? at::kBFloat16 : at::kHalf;
    } else {
      compute.dtype = f.avx512_bf16 || f.amx_bf16 ? at::kBFloat16 : at::kFloat;
    }
  } else if (request.dtype == "float32") {
    compute.dtype = at::kFloat;
  } else if (request.dtype == "bfloat16") {
    compute.dtype = at::kBFloat16;
  } else if (request.dtype == "float16") {
    if (!cuda) {
      throw Error("SWAP_DEVICE_DTYPE", "dtype 'float16' is unusably slow on a CPU", "use 'bfloat16' or 'float32'");
    }
    compute.dtype = at::kHalf;
  } else {
    throw Error("SWAP_DEVICE_DTYPE", "unknown dtype '" + request.dtype + "'");
  }
  return compute;
}

namespace {

// The number behind `key` in a file of lines "key number …", or the first number when there is no key.
std::optional<int64_t> number_in(const char* file, const std::string& key = {}) {
  std::ifstream stream(file);
  int64_t value = 0;
  if (key.empty()) return stream >> value ? std::optional(value) : std::nullopt;  // "max" is no number
  for (std::string line; std::getline(stream, line);) {
    if (line.compare(0, key.size(), key) == 0) return std::strtoll(line.c_str() + key.size(), nullptr, 10);
  }
  return {};
}

}  // namespace

int64_t available_memory(at::Device device) {
  if (device.is_cuda()) {
    return static_cast<int64_t>(c10::getDeviceAllocator(c10::kCUDA)->getMemoryInfo(device.index()).first);
  }
  const auto host = number_in("/proc/meminfo", "MemAvailable:");
  const int64_t available = host ? *host * 1024 : int64_t(4) << 30;
  // A container sees the host's memory, but may not take it all. What caches files can be given back.
  const auto limit = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current");
  if (!limit || !used) return available;
  const int64_t cache = number_in("/sys/fs/cgroup/memory.stat", "file ").value_or(0);
  return std::clamp<int64_t>(*limit - *used + cache, 0, available);
}

int64_t ThreadLease::take(int64_t threads) {
  std::lock_guard lock(threads_mutex);
  // Asked once, before anyone has set it: afterwards LibTorch answers with what was set last.
  static const int64_t cores = at::get_num_threads();
  if (threads_holders > 0 && threads > 0 && threads != threads_value) {
    throw Error("SWAP_DEVICE_THREADS",
                "threads: " + std::to_string(threads) +
                    " was asked for, but another engine of this process runs with " + std::to_string(threads_value),
                "threads hold for the whole process: close the other engine or leave the option out");
  }
  if (threads_holders == 0) threads_value = threads > 0 ? threads : cores;
  // OpenMP keeps the count by thread, so every engine's worker sets it.
  at::set_num_threads(static_cast<int>(threads_value));
  if (!held_) ++threads_holders;
  held_ = true;
  return threads_value;
}

ThreadLease::~ThreadLease() {
  if (!held_) return;
  std::lock_guard lock(threads_mutex);
  --threads_holders;
}

}  // namespace swap
