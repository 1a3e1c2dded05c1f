// A fiber: a stack of its own and a switch to it. Scheduler and fibers live on one host thread.
//
// The sanitizers must be told of every switch. To ThreadSanitizer a fiber is a thread, and switching orders nothing:
// only what acquire() and release() say does. SIMT_TSAN or SIMT_ASAN is defined in the builds that have them.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdlib>

#if defined(SIMT_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
void __tsan_read_range(void*, unsigned long);
void __tsan_write_range(void*, unsigned long);
}
#endif
#if defined(SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

#if defined(SIMT_TSAN)
inline void acquire(void* tag) { __tsan_acquire(tag); }
inline void release(void* tag) { __tsan_release(tag); }
inline void note_read(const void* p, size_t bytes) { __tsan_read_range(const_cast<void*>(p), bytes); }
inline void note_write(const void* p, size_t bytes) { __tsan_write_range(const_cast<void*>(p), bytes); }
// The emulator's own bookkeeping is no access of the kernel's.
struct Quiet {
  Quiet() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Quiet() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
  Quiet(const Quiet&) = delete;
};
#else
inline void acquire(void*) {}
inline void release(void*) {}
inline void note_read(const void*, size_t) {}
inline void note_write(const void*, size_t) {}
struct Quiet {
  Quiet() {}  // NOLINT: not trivial, so that no compiler calls it unused
};
#endif

#if defined(__x86_64__)
// Saves the registers a callee must keep, and takes the other stack's.
extern "C" void simt_switch_stack(void** from, void* to);
#endif

class Fiber {
 public:
  static constexpr size_t kStack = 128 * 1024;

  Fiber() = default;
  Fiber(const Fiber&) = delete;
  ~Fiber() {
#if defined(SIMT_TSAN)
    if (stack_) __tsan_destroy_fiber(tsan_);
#endif
    if (!stack_) return;
#if defined(SIMT_ASAN)
    ASAN_UNPOISON_MEMORY_REGION(stack_, kStack);
#endif
    munmap(stack_, kStack);
  }

  // The host thread's own stack: what fibers switch back to.
  void adopt_thread() {
#if defined(SIMT_TSAN)
    tsan_ = __tsan_get_current_fiber();
#endif
  }

  // The next switch to this fiber starts `entry`, which never returns.
  void prepare(void (*entry)()) {
    if (!stack_) {
      stack_ = static_cast<char*>(
          mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      if (stack_ == MAP_FAILED) std::abort();
#if defined(SIMT_TSAN)
      tsan_ = __tsan_create_fiber(0);
#endif
    }
#if defined(SIMT_ASAN)
    ASAN_UNPOISON_MEMORY_REGION(stack_, kStack);
    bottom_ = stack_, size_ = kStack, fake_ = nullptr;
#endif
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(stack_ + kStack - 64);
    *--top = nullptr;  // where `entry` would return to; keeps the stack aligned
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    top_ = top;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = kStack;
    makecontext(&context_, entry, 0);
#endif
  }

  // From this fiber, which runs, to another. `last`: this one never runs again.
  void switch_to(Fiber& other, bool last = false) {
#if defined(SIMT_TSAN)
    __tsan_switch_to_fiber(other.tsan_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(SIMT_ASAN)
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_, other.bottom_, other.size_);
#else
    (void)last;
#endif
#if defined(__x86_64__)
    simt_switch_stack(&top_, other.top_);
#else
    swapcontext(&context_, &other.context_);
#endif
#if defined(SIMT_ASAN)
    __sanitizer_finish_switch_fiber(fake_, nullptr, nullptr);
#endif
  }

  // First thing in `entry`: AddressSanitizer tells here where the scheduler's stack is.
  static void entered(Fiber& from) {
#if defined(SIMT_ASAN)
    const void* bottom;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &from.size_);
    from.bottom_ = static_cast<const char*>(bottom);
#else
    (void)from;
#endif
  }

 private:
  char* stack_ = nullptr;
#if defined(__x86_64__)
  void* top_ = nullptr;
#else
  ucontext_t context_;
#endif
#if defined(SIMT_TSAN)
  void* tsan_ = nullptr;
#endif
#if defined(SIMT_ASAN)
  const char* bottom_ = nullptr;
  size_t size_ = 0;
  void* fake_ = nullptr;
#endif
};

}  // namespace simt
