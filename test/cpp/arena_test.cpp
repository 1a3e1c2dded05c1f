// Memory for what every step reads: pieces side by side, each its own.
#include "runtime/arena.h"

#include <cstdint>
#include <vector>

#include "checks.h"

TEST_CASE("pieces lie side by side on lines of a cache, whatever their size, and outlive the arena") {
  std::vector<at::Tensor> pieces;
  {
    auto arena = c10::make_intrusive<swap::Arena>();
    for (const int64_t n : {1, 31, 32, 33, 4096, 6 << 20, 3 << 20, 9 << 20, 100}) {
      pieces.push_back(arena->take(n));
      CHECK(pieces.back().numel() == n);
      pieces.back().fill_(static_cast<double>(pieces.size()));
    }
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    CHECK(reinterpret_cast<uintptr_t>(pieces[i].data_ptr()) % 64 == 0);
    CHECK((pieces[i] == static_cast<double>(i + 1)).all().item<bool>());
  }
  const auto at = [&](size_t i) { return reinterpret_cast<uintptr_t>(pieces[i].data_ptr()); };
  CHECK(at(1) == at(0) + 64);
  CHECK(at(4) == at(3) + 128);
}
