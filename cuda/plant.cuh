// Bugs that the tests plant into the kernels, to see that something catches each. On a GPU there are none: `planted`
// is a constant false there, and the emulator reads which one is asked for.
#pragma once

#include "platform.cuh"

namespace swap::cuda {

enum class Plant : int {
  none,
  no_barrier_before_products,   // dK, dV read A_t and dS that other warps have not written yet
  no_barrier_before_next_tile,  // the next rows overwrite Q while other warps read it
  no_barrier_before_v,          // V overwrites K_r while other warps read it
  no_barrier_after_v,           // A_t and dS overwrite V while other warps read it
  no_wait,                      // reads what cp.async has not brought yet
  row_past_the_end,             // stores one row more than there is
  row_short,                    // takes the last row for one beyond the end
  unset_token_tail,             // rows beyond the last token keep what was in shared memory
  token_past_the_end,           // the softmax sees one token too many
  racing_loss,                  // warps add to one word without a barrier in between
};

#if defined(__CUDACC__)
__device__ constexpr bool planted(Plant) { return false; }
#else
inline bool planted(Plant plant) { return ::simt::planted == static_cast<int>(plant); }
#endif

}  // namespace swap::cuda
