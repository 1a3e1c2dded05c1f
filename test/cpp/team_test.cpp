// Threads that take items of one thread's loops.
#include "cpu/team.h"

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "checks.h"
#include "cpu/parallel.h"
#include "threads.h"

using swap::cpu::run_led;
using swap::cpu::run_parallel;
using swap::cpu::Team;
using swap::cpu::worker_count;

namespace {

// A team whose helpers are threads of our own.
struct Helped {
  explicit Helped(int64_t size) : team(size) {
    for (int64_t i = 1; i < size; ++i) threads.emplace_back([this] { team.help(); });
  }
  ~Helped() {
    team.end();
    for (auto& thread : threads) thread.join();
  }
  Team team;
  std::vector<std::thread> threads;
};

}  // namespace

TEST_CASE("a team takes every item of a loop once, and never has more workers than items") {
  for (const int64_t size : {1, 2, 3, 8}) {
    Helped helped(size);
    for (const int64_t items : {0, 1, 2, 3, 7, 100}) {
      for (int again = 0; again < 300; ++again) {
        std::vector<std::atomic<int>> times(items);
        std::vector<std::atomic<int>> inside(size);
        std::atomic<int> wrong{0};
        helped.team.run(items, [&](int64_t item, int64_t worker) {
          if (worker >= std::min(items, size)) return void(++wrong);
          // No two at once are the same worker: each has memory of its own.
          if (inside[worker]++ != 0) ++wrong;
          ++times[item];
          --inside[worker];
        });
        for (const auto& count : times) wrong += count != 1;
        REQUIRE(wrong == 0);
      }
    }
  }
}

TEST_CASE("who helps takes items while the leader is at one") {
  Helped helped(2);
  std::atomic<bool> taken{false};
  const auto leader = std::this_thread::get_id();
  // The leader's first item does not end before another thread has one: else it would be for ever.
  helped.team.run(2, [&](int64_t, int64_t) {
    if (std::this_thread::get_id() != leader) taken = true;
    while (!taken) std::this_thread::yield();
  });
  CHECK(taken);
}

TEST_CASE("what an item throws comes out when all are through, and the team goes on") {
  Helped helped(3);
  for (int again = 0; again < 100; ++again) {
    std::atomic<int> inside{0};
    const auto fail = [&](int64_t item, int64_t) {
      ++inside;
      std::this_thread::yield();
      --inside;
      if (item == 3) throw std::runtime_error("item 3");
    };
    CHECK_THROWS_WITH(helped.team.run(10, fail), "item 3");
    CHECK(inside == 0);
    std::atomic<int> sum{0};
    helped.team.run(10, [&](int64_t item, int64_t) { sum += static_cast<int>(item); });
    CHECK(sum == 45);
  }
}

TEST_CASE("a job that a helper has held up is followed by some without helpers") {
  const Threads set(2);
  const auto workers = [] {
    int64_t count = 0;
    run_led([&] { count = worker_count(100); });
    return count;
  };
  const auto leader = std::this_thread::get_id();
  using Clock = std::chrono::steady_clock;
  const auto held_up = [&] {
    run_led([&] {
      const auto begin = Clock::now();
      std::atomic<bool> taken{worker_count(2) == 1};
      run_parallel(2, [&](int64_t, int64_t) {
        if (std::this_thread::get_id() != leader) {
          // Much longer than the leader, which is waiting for this.
          const auto late = Clock::now() - begin;
          taken = true;
          std::this_thread::sleep_for(std::chrono::milliseconds(20) + 4 * late);
        }
        while (!taken) std::this_thread::yield();
      });
    });
  };
  // Other work of the machine may hold up a job as well, so that it takes a while until there are two again.
  const auto wait_for_two = [&] {
    const auto begin = Clock::now();
    while (workers() != 2) {
      REQUIRE(Clock::now() - begin < std::chrono::seconds(30));
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  };
  wait_for_two();
  // One of them is seen, however long the system takes between two lines: the times without grow.
  bool alone = false;
  for (int again = 0; again < 10 && !alone; ++again) {
    held_up();
    alone = workers() == 1;
  }
  CHECK(alone);
  wait_for_two();
}

TEST_CASE("within a team, its items, and shares, there are no other helpers") {
  const Threads set(2);
  int64_t inner = 0;
  run_led([&] { run_led([&] { inner = worker_count(100); }); });
  CHECK(inner == 1);
  run_led([&] { swap::cpu::run_apart(3, [&](int64_t) { inner = swap::cpu::in_team() ? 0 : worker_count(100); }); });
  CHECK(inner == 1);
  Helped helped(3);
  std::atomic<int> sum{0};
  helped.team.run(20, [&](int64_t item, int64_t worker) {
    if (worker == 0) helped.team.run(3, [&](int64_t one, int64_t) { sum += 100 + static_cast<int>(one); });
    sum += static_cast<int>(item);
  });
  // The leader has had an item, and each of those has had all three of its own.
  CHECK(sum > 190);
  CHECK((sum - 190) % 303 == 0);
  swap::cpu::run_apart(2, [&](int64_t item) {
    int64_t count = 0;
    run_led([&] { count = worker_count(100); });
    if (item == 0) inner = 10 + count;
  });
  CHECK(inner == 11);
}
