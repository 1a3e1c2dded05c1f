// A block of threads on one host thread: fibers, warps, shared memory, schedule.
#pragma once

#include <memory>
#include <random>
#include <vector>

#include "fiber.h"
#include "simt.h"

namespace simt {

enum class State { ready, at_barrier, at_warp, done };

struct Copy {
  void* to;
  const void* from;
  unsigned bytes;
};

struct Thread {
  Fiber fiber;
  Place place;
  unsigned lane = 0, warp = 0;
  State state = State::done;
  std::vector<Copy> copies;  // asynchronous, on their way
  // Addresses of shared memory this lane wrote to since its warp last met: see memory.cpp
  std::vector<uint32_t> stored, copied;
};

// One operand and result of a lane in a warp operation.
struct alignas(64) Slot {
  unsigned char bytes[64];
  template <class T>
  T& as() {
    static_assert(sizeof(T) <= sizeof bytes);
    return *reinterpret_cast<T*>(bytes);
  }
};

struct Warp {
  unsigned arrived = 0, phase = 0;
  int operation = 0;
  Slot slots[2][32];  // two sets: a fast lane may come to the next operation before a slow one has left this one
};

struct Block {
  Block(dim3 grid, dim3 size, size_t shared_bytes, uint64_t seed);
  ~Block();
  void run(uint3 index, const std::function<void()>& kernel);
  // From the thread that runs to the scheduler, until the thread is ready again.
  void wait(State state);
  void met(unsigned warp);  // counts the conflicts of what the warp's lanes wrote together

  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  unsigned char* shared = nullptr;
  size_t shared_bytes;
  unsigned live = 0, at_barrier = 0;
  Counters counted;
  const std::function<void()>* kernel = nullptr;
  Fiber scheduler;
  char tag = 0;  // orders blocks that follow each other

 private:
  bool pass(unsigned from, unsigned to);
  std::vector<unsigned> order_;
  std::mt19937_64 random_;
};

extern thread_local Thread* current;
extern thread_local Block* current_block;

[[noreturn]] void fail(const char* why);

// Every lane leaves its operand in its slot; the last to arrive does the operation for all; each takes its result.
// `operation` tells kinds apart: lanes that come to different ones are an error. To ThreadSanitizer this orders
// nothing: PTX promises no order of memory for shfl, mma and ldmatrix, though all lanes come to them.
template <class T>
void exchange(int operation, T& value, void (*work)(Slot*)) {
  const Quiet quiet;
  Thread& thread = *current;
  Block& block = *current_block;
  Warp& warp = block.warps[thread.warp];
  Slot* const slots = warp.slots[warp.phase];
  if (warp.arrived == 0) warp.operation = operation;
  if (warp.operation != operation) fail("the lanes of a warp came to different operations");
  slots[thread.lane].as<T>() = value;
  if (++warp.arrived == 32) {
    work(slots);
    warp.arrived = 0;
    warp.phase ^= 1;
    block.counted.warp_operations++;
    block.met(thread.warp);
    for (unsigned lane = 0; lane < 32; ++lane) block.threads[thread.warp * 32 + lane]->state = State::ready;
  } else {
    block.wait(State::at_warp);
  }
  value = slots[thread.lane].as<T>();
}

}  // namespace simt
