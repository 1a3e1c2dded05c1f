// Bugs that the tests plant into the kernels, to see that something catches each. On a GPU there are none: `planted`
// is a constant false there, and the emulator reads which one is asked for.
#pragma once

#include "platform.cuh"

namespace swap::cuda {

enum class Plant : int {
  none,
  // A barrier that is missing: one for each of the kernels'.
  forward_no_barrier_after_copies,       // reads Q, K, K_r that other threads have not brought yet
  forward_no_barrier_before_v,           // V overwrites K_r while other warps read it
  forward_no_barrier_after_v,            // reads V that other threads have not brought yet
  forward_no_barrier_before_next_tile,   // the next rows overwrite Q, the next K_r overwrites V, while others read them
  forward_no_barrier_before_sum,         // adds losses of warps that have not written theirs yet
  backward_no_barrier_after_copies,      // reads Q, dO, K, K_r that other threads have not brought yet
  backward_no_barrier_before_v,          // V overwrites K_r while other warps read it
  backward_no_barrier_after_v,           // reads V that other threads have not brought yet
  backward_no_barrier_before_maps,       // A_t and dS overwrite V while other warps read it
  backward_no_barrier_before_products,   // dK, dV read A_t and dS that other warps have not written yet
  backward_no_barrier_before_next_tile,  // the next rows overwrite Q and dO while other warps read them
  no_wait,                               // reads what cp.async has not brought yet
  row_past_the_end,                      // stores one row more than there is
  row_short,                             // takes the last row for one beyond the end
  unset_token_tail,                      // rows beyond the last token keep what was in shared memory
  token_past_the_end,                    // the softmax sees one token too many
  racing_loss,                           // warps add to one word without a barrier in between
};

#if defined(__CUDACC__)
__device__ constexpr bool planted(Plant) { return false; }
#else
inline bool planted(Plant plant) { return ::simt::planted == static_cast<int>(plant); }
#endif

// Every barrier of the kernels, so that there is a plant for each.
__device__ __forceinline__ void barrier(Plant missing) {
  if (!planted(missing)) __syncthreads();
}

}  // namespace swap::cuda
