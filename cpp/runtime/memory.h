// The memory of CPU tensors; of small ones, small_blocks.h. A step makes the same tensors as the step before, and a
// tensor of some MB from the system comes as pages that are zeroed one by one when they are first written: that took as
// long as the arithmetic of many layers. So blocks are kept for the next tensor of their size, and come in huge pages.
#pragma once

#include <cstddef>

namespace swap {

struct MemoryUse {
  size_t live = 0;  // bytes of large blocks that tensors have
  size_t kept = 0;  // bytes that wait for the next tensor
  size_t peak = 0;  // the most that `live` was since the last release: live + kept exceed it by 32 MB at most
};

// From now on LibTorch's CPU tensors of this process get their memory here: to be called before there are any. Does
// nothing the second time, and where the system is not Linux.
void keep_blocks();

// While one lives, this thread's blocks come in pages of the usual size: for weights, which are written once. Huge
// pages must be found whole and zeroed at once, and where a virtual machine gives free ones back to its host they are
// slow.
struct SmallPages {
  SmallPages();
  ~SmallPages();
};

// Asks the system for the pages of memory that is about to be written, all at once: a fault for each costs half as much
// again. A hint: where the system does not know it, nothing happens.
void take_pages(void* data, size_t size);

// Gives what is kept back to the system: large blocks, and this thread's small ones. Those of LibTorch's other threads
// wait for the next job.
void release_kept_blocks();

MemoryUse memory_use();

// Releases what is kept at the end of a job.
struct ReleaseAtEnd {
  ~ReleaseAtEnd() { release_kept_blocks(); }
};

}  // namespace swap
