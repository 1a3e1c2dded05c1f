// Drives the engine's team without LibTorch: what ThreadSanitizer and AddressSanitizer watch. Items write to memory of
// their own and of their worker without any lock, as the kernels do.
//
// Usage: team_stress [rounds] [seed]
#include "cpu/team.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

using swap::cpu::Team;

int failures = 0;
int64_t helped = 0;  // times that another thread had items in a loop

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "FAILED: %s\n", what);
  ++failures;
}

// A loop in which the item `failing` throws, if there is one.
void run_loop(Team& team, int64_t items, int64_t failing) {
  std::vector<int64_t> results(items), scratch(std::min(items, team.size()));
  bool thrown = false;
  try {
    team.run(items, [&](int64_t item, int64_t worker) {
      scratch.at(worker) = item;
      for (int i = 0; i < 100; ++i) std::atomic_signal_fence(std::memory_order_seq_cst);  // some time
      if (item == failing) throw std::runtime_error("an item");
      results[item] = scratch[worker] + 1;
    });
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  const bool fails = failing >= 0 && failing < items;
  for (size_t i = 1; i < scratch.size(); ++i) helped += scratch[i] != 0;
  expect(thrown == fails, "a loop throws what its item throws, and nothing else");
  for (int64_t item = 0; item < items && !fails; ++item) expect(results[item] == item + 1, "every item is run");
}

}  // namespace

int main(int count, char** words) {
  const int rounds = count > 1 ? std::atoi(words[1]) : 100;
  std::mt19937 random(count > 2 ? std::atoi(words[2]) : 1);
  for (int round = 0; round < rounds; ++round) {
    const int64_t size = 1 + random() % 4;
    Team team(size);
    std::vector<std::thread> threads;
    for (int64_t i = 1; i < size; ++i) threads.emplace_back([&] { team.help(); });
    threads.emplace_back([&] { team.wait(); });
    for (int loop = 0; loop < 200; ++loop) {
      run_loop(team, random() % 12, random() % 10 == 0 ? static_cast<int64_t>(random() % 12) : -1);
    }
    team.end();
    for (auto& thread : threads) thread.join();
  }
  expect(helped > 0, "other threads help");
  std::printf("%d rounds of a team, help %lld times, %d failures\n", rounds, static_cast<long long>(helped), failures);
  return failures == 0 ? 0 : 1;
}
