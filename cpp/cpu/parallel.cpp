#include "cpu/parallel.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/TensorIterator.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <map>
#include <utility>

#include "cpu/kernel.h"
#include "cpu/team.h"

#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace swap::cpu {
namespace {

class FlushDenormals {
#ifdef __SSE2__
 public:
  FlushDenormals() { _mm_setcsr(saved_ | 0x8040); }  // flush to zero, denormals are zeros
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_ = _mm_getcsr();
#endif
};

// On a machine that has other work for its cores helpers cost more than they give: a job that was held up by one is
// followed by some without, for 50 ms, and for twice as long each time that the next one with helpers is held up as
// well.
class Solitude {
 public:
  using Clock = std::chrono::steady_clock;

  bool now() const { return Clock::now().time_since_epoch().count() < until_; }

  // After a job with helpers.
  void judge(bool held_up) {
    if (!held_up) {
      length_ = kShortest;
      return;
    }
    const int64_t length = length_;
    until_ = Clock::now().time_since_epoch().count() + length;
    length_ = std::min(2 * length, kLongest);
  }

 private:
  // Ticks of the clock.
  static constexpr int64_t kShortest = Clock::duration(std::chrono::milliseconds(50)).count();
  static constexpr int64_t kLongest = 32 * kShortest;

  std::atomic<int64_t> until_{0}, length_{kShortest};
};

Solitude solitude;

thread_local Team* team = nullptr;  // that this thread leads

// That this thread leads another one, or none.
class Leading {
 public:
  explicit Leading(Team* own) : before_(std::exchange(team, own)) {}
  ~Leading() {
    if (team) team->end();
    team = before_;
  }

 private:
  Team* const before_;
};

// Threads at most, the leader among them: each looks at every loop, and more than two threads were not measured.
constexpr int64_t kLargestTeam = 4;

}  // namespace

int64_t worker_count(int64_t items) {
  const int64_t threads = team ? team->size() : at::in_parallel_region() ? 1 : at::get_num_threads();
  return std::max<int64_t>(1, std::min(items, threads));
}

bool in_team() { return team != nullptr; }

namespace {

// at::parallel_for is a template that is serial unless this file has OpenMP, which would have to be LibTorch's own
// copy. A loop over a tensor's elements runs inside LibTorch, on its threads: each element is a worker.
at::TensorIterator loop_over(int64_t workers) {
  return at::TensorIteratorConfig()
      .set_check_mem_overlap(false)
      .check_all_same_dtype(false)
      .resize_outputs(false)
      .add_owned_output(at::arange(workers, at::kLong))
      .build();
}

// work(worker) for each of them, on LibTorch's threads; the first one on this thread, and before others that this
// thread has. At once, unless there are fewer threads than were said.
void run_workers(int64_t workers, c10::function_ref<void(int64_t)> work) {
  if (workers == 1) {
    work(0);
    return;
  }
  thread_local std::map<int64_t, at::TensorIterator> loops;  // to make one takes some microseconds
  auto found = loops.find(workers);
  if (found == loops.end()) found = loops.emplace(workers, loop_over(workers)).first;
  found->second.for_each(
      [&](char** data, const int64_t* strides, int64_t columns, int64_t rows) {
        for (int64_t i = 0; i < rows * columns; ++i) {
          const char* at = data[0] + i % columns * strides[0] + i / columns * strides[1];
          work(*reinterpret_cast<const int64_t*>(at));
        }
      },
      1);
}

void run_by(int64_t workers, int64_t items, c10::function_ref<void(int64_t, int64_t)> run) {
  std::atomic<int64_t> next{0};
  run_workers(workers, [&](int64_t worker) {
    const FlushDenormals flush;
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) run(item, worker);
  });
}

}  // namespace

void run_parallel(int64_t items, c10::function_ref<void(int64_t, int64_t)> run) {
  if (team) return team->run(items, run);
  run_by(worker_count(items), items, run);
}

void run_rows(int64_t rows, int64_t width, c10::function_ref<void(int64_t)> run) {
  const int64_t some = std::max<int64_t>(1, (int64_t(1) << (team ? 12 : 15)) / width);
  run_parallel(divide_up(rows, some), [&](int64_t item, int64_t) {
    for (int64_t row = item * some; row < std::min(rows, (item + 1) * some); ++row) run(row);
  });
}

void run_apart(int64_t items, c10::function_ref<void(int64_t)> run) {
  run_by(in_team() ? 1 : worker_count(items), items, [&](int64_t item, int64_t) {
    const Leading nobody(nullptr);
    run(item);
  });
}

void run_led(c10::function_ref<void()> lead, int64_t items, c10::function_ref<void(int64_t)> run) {
  const bool alone = solitude.now();
  const int64_t threads = in_team() ? 1 : worker_count(std::numeric_limits<int64_t>::max());
  // Alone, it is a loop of LibTorch's threads all the same: its operators are not divided then, so that the same
  // numbers come out.
  const int64_t workers = alone && items == 0 ? std::min<int64_t>(2, threads) : threads;
  Team own(alone ? 1 : std::min(workers, kLargestTeam));
  std::atomic<int64_t> next{0};
  Solitude::Clock::time_point through;
  run_workers(workers, [&](int64_t worker) {
    const FlushDenormals flush;
    if (worker == 0) {
      const Leading leading(&own);
      try {
        lead();
      } catch (...) {
        next = items;
        throw;
      }
      through = Solitude::Clock::now();
    } else if (worker < own.size()) {
      own.help();
    } else if (items > 0) {
      own.wait();
    }
    const Leading nobody(nullptr);
    for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) run(item);
  });
  if (own.size() == 1) return;
  // LibTorch's loop ends when all threads are there, those that the system has put aside as well.
  solitude.judge(own.was_held_up() || (items == 0 && Solitude::Clock::now() - through > Team::kPatience));
}

}  // namespace swap::cpu
