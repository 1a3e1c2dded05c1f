#include "block.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

#if defined(__x86_64__)
asm(R"(
.text
.globl simt_switch_stack
.type simt_switch_stack,@function
simt_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch_stack,.-simt_switch_stack
.section .note.GNU-stack,"",@progbits
.text
)");
#endif

namespace simt {

thread_local const Place* here = nullptr;
thread_local Thread* current = nullptr;
thread_local Block* current_block = nullptr;
Options options;
int planted = 0;
Counters counters;

void fail(const char* why) {
  const Place& at = current->place;
  std::fprintf(stderr, "simt: %s (block %u,%u,%u thread %u)\n", why, at.block.x, at.block.y, at.block.z, at.thread.x);
  std::_Exit(3);
}

namespace {

void thread_main() {
  Block& block = *current_block;
  Fiber::entered(block.scheduler);
  acquire(&block.tag);
  (*block.kernel)();
  release(&block.tag);
  if (!current->copies.empty()) fail("a thread ended before its asynchronous copies had landed");
  current->state = State::done;
  block.live--;
  current->fiber.switch_to(block.scheduler, true);
  std::abort();
}

}  // namespace

Block::Block(dim3 grid, dim3 size, size_t shared_bytes, uint64_t seed) : shared_bytes(shared_bytes), random_(seed) {
  const unsigned count = size.x * size.y * size.z;
  if (count % 32) {
    std::fprintf(stderr, "simt: a block is made of whole warps\n");
    std::_Exit(3);
  }
  // Exactly as large as asked for, so that AddressSanitizer sees what lies beyond.
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, std::max<size_t>(shared_bytes, 1))) std::abort();
  shared = static_cast<unsigned char*>(memory);
  warps.resize(count / 32);
  for (unsigned i = 0; i < count; ++i) {
    threads.push_back(std::make_unique<Thread>());
    Thread& thread = *threads.back();
    thread.place = {{i % size.x, i / size.x % size.y, i / (size.x * size.y)}, {}, size, grid};
    thread.lane = i % 32;
    thread.warp = i / 32;
    order_.push_back(options.order == Order::down ? count - 1 - i : i);
  }
}

Block::~Block() { std::free(shared); }

void Block::wait(State state) {
  Thread& me = *current;
  me.state = state;
  me.fiber.switch_to(scheduler);
  current = &me;
  here = &me.place;
}

// Lets every thread of order_[from, to) that is ready run until it waits.
bool Block::pass(unsigned from, unsigned to) {
  bool any = false;
  for (unsigned i = from; i < to; ++i) {
    Thread& thread = *threads[order_[i]];
    if (thread.state != State::ready) continue;
    any = true;
    current = &thread;
    here = &thread.place;
    scheduler.switch_to(thread.fiber);
  }
  return any;
}

void Block::run(uint3 index, const std::function<void()>& body) {
  const Quiet quiet;
  kernel = &body;
  current_block = this;
  scheduler.adopt_thread();
  const unsigned count = static_cast<unsigned>(threads.size());
  live = count, at_barrier = 0;
  std::memset(shared, 0xff, shared_bytes);  // NaN in every type
  release(&tag);
  for (auto& thread : threads) {
    thread->place.block = index;
    thread->state = State::ready;
    thread->fiber.prepare(thread_main);
  }
  std::vector<unsigned> warp_order(warps.size());
  for (unsigned w = 0; w < warps.size(); ++w)
    warp_order[w] = options.order == Order::greedy_down ? static_cast<unsigned>(warps.size()) - 1 - w : w;
  while (live) {
    bool progress = false;
    switch (options.order) {
      case Order::shuffled:
        std::shuffle(order_.begin(), order_.end(), random_);
        [[fallthrough]];
      case Order::up:
      case Order::down:
        progress = pass(0, count);
        break;
      case Order::greedy_shuffled:
        std::shuffle(warp_order.begin(), warp_order.end(), random_);
        [[fallthrough]];
      case Order::greedy_up:
      case Order::greedy_down:
        for (const unsigned w : warp_order)
          while (pass(w * 32, w * 32 + 32)) progress = true;
    }
    if (at_barrier == count) {
      at_barrier = 0;
      counted.barriers++;
      for (unsigned w = 0; w < warps.size(); ++w) met(w);
      for (auto& thread : threads) thread->state = State::ready;
      progress = true;
    }
    if (!progress && live) fail("nothing can go on: a barrier or warp operation that not all threads came to");
  }
  acquire(&tag);
}

void barrier() {
  const Quiet quiet;
  Block& block = *current_block;
  if (block.live != block.threads.size()) fail("__syncthreads after a thread of the block had ended");
  release(&block.at_barrier);
  block.at_barrier++;
  block.wait(State::at_barrier);
  acquire(&block.at_barrier);
}

unsigned char* shared_memory() { return current_block->shared; }

void launch(dim3 grid, dim3 block_size, size_t shared_bytes, const std::function<void()>& kernel) {
  const unsigned blocks = grid.x * grid.y * grid.z;
  const int workers = std::max(1, std::min<int>(options.workers, static_cast<int>(blocks)));
  std::mutex counting;
  const auto work = [&](int worker) {
    const Quiet quiet;
    Block block(grid, block_size, shared_bytes, options.seed + worker);
    for (unsigned i = worker; i < blocks; i += workers)
      block.run({i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)}, kernel);
    const std::lock_guard lock(counting);
    counters.barriers += block.counted.barriers;
    counters.warp_operations += block.counted.warp_operations;
    counters.ldmatrix += block.counted.ldmatrix;
    counters.copies += block.counted.copies;
    counters.stores += block.counted.stores;
    counters.conflicts += block.counted.conflicts;
  };
  if (workers == 1) return work(0);
  std::vector<std::thread> threads;
  for (int i = 0; i < workers; ++i) threads.emplace_back(work, i);
  for (auto& thread : threads) thread.join();
}

}  // namespace simt
