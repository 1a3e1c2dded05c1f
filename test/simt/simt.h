// What a kernel sees when a host compiler compiles it: CUDA's words, and the warp operations behind cuda/*.cuh.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <type_traits>

#include "half.h"

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace simt {

// Where the fiber that runs stands. Set by the scheduler before it switches to one.
struct Place {
  uint3 thread, block;
  dim3 block_size, grid;
};
extern thread_local const Place* here;

// In which order threads run, and when asynchronous copies land.
enum class Order { up, down, shuffled, greedy_up, greedy_down, greedy_shuffled };
inline constexpr Order kOrders[] = {Order::up,        Order::down,        Order::shuffled,
                                    Order::greedy_up, Order::greedy_down, Order::greedy_shuffled};
struct Options {
  Order order = Order::up;
  bool copies_land_late = true;  // at the wait; else at once
  uint64_t seed = 1;             // of the shuffled orders
#if defined(SIMT_TSAN)
  int workers = 2;  // host threads that share the blocks; two, to see races between blocks too
#else
  int workers = 1;
#endif
};
extern Options options;

// The bug that is planted (cuda/plant.cuh), 0 for none.
extern int planted;

struct Counters {
  uint64_t barriers = 0, warp_operations = 0, ldmatrix = 0, copies = 0, stores = 0;
  uint64_t conflicts = 0;  // accesses to shared memory that had to be repeated because two went to one bank
};
extern Counters counters;

void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel);
unsigned char* shared_memory();

template <class T>
void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1, int depth);
void ldmatrix(uint32_t* r, int count, bool transposed, const void* row);
void copy_async(void* shared, const void* global, unsigned bytes);
void wait_for_copies();
void note_store(const void* to, unsigned bytes);  // for the count of bank conflicts
void barrier();
float shuffle_xor(unsigned mask, float value, int lane_mask);

inline float exp2_fast(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0.f : y;  // .ftz
}

}  // namespace simt

#define threadIdx (::simt::here->thread)
#define blockIdx (::simt::here->block)
#define blockDim (::simt::here->block_size)
#define gridDim (::simt::here->grid)
inline float __fmul_rn(float x, float y) { return x * y; }
inline void __syncthreads() { ::simt::barrier(); }
inline float __shfl_xor_sync(unsigned mask, float value, int lane_mask) {
  return ::simt::shuffle_xor(mask, value, lane_mask);
}
