// One thread leads through a job, the others take items of its loops: for jobs of some milliseconds whose loops last
// some microseconds each, less than it takes to wake a thread.
//
// The price is that helpers are awake all the time, and that one which the system puts aside in the middle of an item
// holds up the leader for milliseconds.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>

namespace swap::cpu {

class Team {
 public:
  using Run = std::function<void(int64_t item, int64_t worker)>;

  // Who is later than this was put aside by the system, which takes milliseconds.
  static constexpr std::chrono::microseconds kPatience{200};

  explicit Team(int64_t size) : size_(size) {}

  int64_t size() const { return size_; }

  // By the leader: run(item, worker) for every item, by whoever is free; `worker` is below size() and below `items`.
  // Waits for nobody that has not seen the loop. The first exception is thrown again when all who took an item are
  // through. Within an item it is the leader's alone.
  void run(int64_t items, const Run& run);

  // By another thread: takes items until end(). It looks for them all the time, and never sleeps.
  void help();
  // By another thread: only waits for end().
  void wait();

  // By the leader, in any case.
  void end() { over_.store(true, std::memory_order_release); }

  // Whether the leader has had to wait for a helper much longer than its own items took.
  bool was_held_up() const { return held_up_; }

 private:
  // Item `first` and those after it that nobody has taken, as worker `worker`.
  void take(int64_t first, int64_t worker);

  const int64_t size_;
  // Of the loop that runs. Written by the leader while no loop is open and nobody is in one.
  int64_t loops_ = 0, items_ = 0;
  const Run* run_ = nullptr;
  bool held_up_ = false;
  // Of the first exception.
  std::exception_ptr failure_;
  std::atomic<bool> failed_{false};
  // Each is written by one side while the other looks: on cache lines of their own.
  alignas(64) std::atomic<int64_t> open_{0};     // the loop's number, 0: none
  alignas(64) std::atomic<int64_t> next_{0};     // item
  alignas(64) std::atomic<int64_t> workers_{0};  // that have an item
  alignas(64) std::atomic<int64_t> busy_{0};     // helpers that are in the loop, or look whether it is still open
  alignas(64) std::atomic<bool> over_{false};
};

}  // namespace swap::cpu
