// The memory of small CPU tensors, of which a step makes and drops thousands. Each thread keeps what it was given back,
// by size: malloc aligned to a cache line splits and joins its free memory again and again, a few percent of a small
// model's step.
#pragma once

#include <cstddef>
#include <cstdint>

namespace swap {

// Bytes of the largest.
constexpr size_t kSmallBlock = size_t(128) << 10;

// n bytes, at most kSmallBlock; null where there are none. Aligned to 64, never to 128: by that a small block is told
// from others.
void* take_small_block(size_t n);
// On any thread.
void give_small_block(void* data);
inline bool is_small_block(const void* data) { return reinterpret_cast<uintptr_t>(data) % 128 == 64; }

// Gives what this thread keeps back to the system.
void release_small_blocks();

}  // namespace swap
