// A batch in shares, each on a thread of its own.
#include "runtime/shares.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "checks.h"
#include "cpu/parallel.h"
#include "models/down_path.h"
#include "threads.h"

using swap::Share;
using swap::Shares;

TEST_CASE("every row is in one share, and shares are as equal as they can be") {
  for (const int threads : {1, 2, 3, 8}) {
    const Threads set(threads);
    for (const int64_t rows : {1, 2, 3, 4, 7}) {
      const auto shares = Shares::apart(rows);
      CHECK(shares.count() == std::min<int64_t>(rows, threads));
      std::vector<Share> found(shares.count());
      shares.run([&](int64_t index, Share share) { found[index] = share; });
      int64_t next = 0;
      for (const auto& share : found) {
        CHECK(share.first == next);
        CHECK(share.count >= rows / shares.count());
        CHECK(share.count <= rows / shares.count() + 1);
        next += share.count;
      }
      CHECK(next == rows);
    }
  }
}

TEST_CASE("shares run at once, and what a share calls has its thread alone") {
  const Threads set(2);
  std::atomic<int> arrived{0};
  std::vector<int64_t> inside(2, 0);
  Shares::apart(4).run([&](int64_t index, Share) {
    inside[index] = swap::cpu::worker_count(100);
    // Each waits for the other: one after another would be for ever.
    for (++arrived; arrived < 2;) std::this_thread::yield();
  });
  CHECK(inside == std::vector<int64_t>{1, 1});
  int64_t whole = 0;
  Shares::whole(4).run([&](int64_t, Share share) { whole = share.count == 4 ? swap::cpu::worker_count(100) : 0; });
  CHECK(whole == 2);
}

TEST_CASE("one row alone has the other threads' help, and so has what comes before shares") {
  for (const int threads : {1, 2, 3}) {
    const Threads set(threads);
    for (const int64_t rows : {1, 2, 5}) {
      const auto shares = Shares::apart(rows);
      bool helped = false;
      std::atomic<bool> after{false};
      std::atomic<int64_t> sum{0};
      const auto common = [&] { helped = swap::cpu::in_team(); };
      shares.run_after(common, [&](int64_t, Share share) {
        // A share of several is its thread's alone.
        if (shares.count() > 1) CHECK(!swap::cpu::in_team());
        after = helped;
        sum += share.count;
      });
      CHECK(helped);
      CHECK(after);
      CHECK(sum == rows);
      const auto fail = [] { throw std::runtime_error("before"); };
      CHECK_THROWS_WITH(shares.run_after(fail, [&](int64_t, Share) { ++sum; }), "before");
      CHECK(sum == rows);
    }
    bool helped = false, then = false;
    Shares::apart(1).run([&](int64_t, Share) { helped = swap::cpu::in_team(); }, [&] { then = helped; });
    CHECK(then);
    int calls = 0;
    Shares::whole(3).run_after([&] { calls = swap::cpu::in_team() ? 9 : 1; }, [&](int64_t, Share) { calls *= 2; });
    CHECK(calls == 2);
  }
}

TEST_CASE("a share has the caller's modes, and gradients of its own") {
  const Threads set(2);
  // Whole numbers, whose sums are exact.
  const auto weight = at::randn({3}).requires_grad_(), x = at::arange(12, at::kFloat).view({4, 3});
  std::vector<at::Tensor> gradients(2);
  Shares::apart(4).run([&](int64_t index, Share share) {
    gradients[index] = torch::autograd::grad({(share.of(x) * weight).sum()}, {weight})[0];
  });
  CHECK(at::equal(gradients[0] + gradients[1], x.sum(0)));
  const c10::NoGradGuard no_grad;
  std::vector<int> wanted(2, 1);
  Shares::apart(2).run([&](int64_t index, Share) { wanted[index] = c10::GradMode::is_enabled(); });
  CHECK(wanted == std::vector<int>{0, 0});
}

TEST_CASE("what a share throws comes out when all are through") {
  const Threads set(2);
  std::atomic<int> through{0};
  const auto run = [&] {
    Shares::apart(2).run([&](int64_t index, Share) {
      ++through;
      if (index == 0) throw std::runtime_error("no");
    });
  };
  CHECK_THROWS_WITH(run(), "no");
  CHECK(through == 2);
}

TEST_CASE("what follows is done once, when all shares are through, and not after a failure") {
  for (const int threads : {1, 2, 3}) {
    const Threads set(threads);
    for (const auto& shares : {Shares::apart(3), Shares::whole(3)}) {
      std::atomic<int64_t> rows{0};
      int times = 0;
      int64_t workers = 0;
      const auto count = [&](int64_t, Share share) { rows += share.count; };
      shares.run(count, [&] {
        ++times;
        workers = swap::cpu::worker_count(100);
        CHECK(rows == 3);
      });
      CHECK(times == 1);
      CHECK(workers == (shares.count() > 1 ? 1 : workers));
      const auto fail = [&](int64_t index, Share) {
        if (index == 0) throw std::runtime_error("a share");
      };
      CHECK_THROWS_WITH(shares.run(fail, [&] { ++times; }), "a share");
      CHECK(times == 1);
      CHECK_THROWS_WITH(shares.run(count, [] { throw std::runtime_error("what follows"); }), "what follows");
    }
  }
}

TEST_CASE("who is through first has time for something else, where there are others") {
  for (const int threads : {1, 2, 3}) {
    const Threads set(threads);
    for (const auto& shares : {Shares::apart(3), Shares::whole(3)}) {
      std::atomic<int> then{0}, meanwhile{0};
      shares.run([](int64_t, Share) {}, [&] { ++then; }, [&] { ++meanwhile; });
      CHECK(then == 1);
      CHECK(meanwhile == (shares.count() > 1 ? 1 : 0));
    }
  }
  const Threads set(2);
  std::atomic<int> then{0};
  std::atomic<bool> begun{false};
  // The second share is not through before somebody has time: else it would be for ever.
  const auto wait = [&](int64_t index, Share) {
    while (index == 1 && !begun) std::this_thread::yield();
  };
  const auto fail = [&] {
    CHECK(then == 0);
    begun = true;
    throw std::runtime_error("meanwhile");
  };
  CHECK_THROWS_WITH(Shares::apart(2).run(
                        wait, [&] { ++then; }, fail),
                    "meanwhile");
  CHECK(then == 1);
}

TEST_CASE("a share's part of what stands for the batch again and again") {
  for (const int64_t b : {1, 2, 3, 5}) {
    for (const int64_t B : {b, 2 * b}) {
      const auto all = at::randn({b, 2, 3});
      const swap::Wordless begun{{all, all + 1}, all + 2, b == 2 ? at::Tensor() : all + 3};
      const auto whole = at::cat(std::vector<at::Tensor>(B / b, all));
      for (int64_t first = 0; first < B; ++first) {
        for (int64_t count = 1; first + count <= B; ++count) {
          if (count == B) continue;
          const auto part = begun.of({first, count}, B);
          const auto expected = whole.narrow(0, first, count);
          CHECK(at::equal(part.skips.at(0), expected));
          CHECK(at::equal(part.skips.at(1), expected + 1));
          CHECK(at::equal(part.x, expected + 2));
          CHECK(part.rows.defined() == begun.rows.defined());
          if (part.rows.defined()) CHECK(at::equal(part.rows, expected + 3));
        }
      }
      CHECK(begun.of({0, B}, B).x.size(0) == b);
    }
  }
}
