// What only the emulator can ask: the same bits under every schedule, and no bank conflict anywhere.
#include <doctest/doctest.h>

#include <cstdlib>

#include "case.h"
#include "simt.h"

namespace {

uint64_t hash_under(const Spec& spec, const reference::Inputs& inputs, simt::Options options) {
  const simt::Options before = simt::options;
  simt::options = options;
  const Run result = run(spec, inputs);
  simt::options = before;
  CHECK(result.finite);
  CHECK(result.agrees);
  CHECK(result.guarded);
  return result.hash;
}

}  // namespace

TEST_CASE("six schedules, copies that land late or at once, one worker or two: the same bits") {
  for (const int d : swap::cuda::kHeadSizes) {
    const bool all = std::getenv("SWAP_SIMT_LONG") != nullptr;
    for (const bool with_loss : {true, false}) {
      // Three tiles of rows a block: the barrier before the next one, and sums that live from tile to tile.
      const Spec spec{.head_size = d, .rows = 130, .batch = 1, .heads = 2, .with_loss = with_loss, .blocks = 1};
      CAPTURE(spec.text());
      const auto inputs = make_inputs(spec);
      const uint64_t first = hash_under(spec, inputs, {});
      for (const simt::Order order : simt::kOrders)
        for (const bool late : {true, false}) {
          if (!all && !with_loss && late) continue;
          for (uint64_t seed = 1; seed <= (all ? 5 : 1); ++seed)
            CHECK(hash_under(spec, inputs, {order, late, seed, late ? 1 : 2}) == first);
        }
    }
  }
}

TEST_CASE("no bank conflict in any ldmatrix, copy or store") {
  for (const int d : swap::cuda::kHeadSizes)
    for (const bool with_loss : {true, false}) {
      simt::counters = {};
      const Spec spec{.head_size = d, .rows = 70, .batch = 1, .with_loss = with_loss};
      CAPTURE(spec.text());
      run(spec, make_inputs(spec));
      CHECK(simt::counters.ldmatrix > 0);
      CHECK(simt::counters.copies > 0);
      CHECK(simt::counters.stores > 0);
      CHECK(simt::counters.conflicts == 0);
    }
}
