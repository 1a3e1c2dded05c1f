// simt_plants NUMBER: plants a bug (cuda/plant.cuh), runs a few cases under all schedules and ends with 10 and the name
// of the check that saw it, with 0 where none did. Where the emulator or a sanitizer stops the program, that was it.
#include <cstdio>
#include <cstdlib>

#include "case.h"
#include "simt.h"

int main(int argc, char** argv) {
  simt::planted = argc > 1 ? std::atoi(argv[1]) : 0;
  const bool quick = argc > 2;  // sanitizers need one schedule
  for (const int d : {40, 160}) {
    const Spec spec{.head_size = d, .rows = 129, .tokens = 77, .batch = 1, .heads = quick ? 1 : 32 * 2};
    const Spec small{.head_size = d, .rows = 129, .tokens = 77, .batch = 1, .heads = 1};
    for (const simt::Order order : simt::kOrders)
      for (const bool late : {true, false}) {
        if (quick && order != simt::Order::up) continue;
        // Many heads, so that a block takes more than one tile of rows, but once only: they take long.
        const bool many = !quick && order == simt::Order::greedy_up && !late;
        const Spec& now = many ? spec : small;
        simt::options = {order, late, 1, 2};
        const auto inputs = make_inputs(now);
        const Run result = run(now, inputs);
        const char* seen = !result.guarded                                  ? "guard"
                           : !result.finite                                 ? "NaN"
                           : !worse_than_eager(now, inputs, result).empty() ? "error"
                                                                            : nullptr;
        if (seen) {
          std::printf("%s\n", seen);
          return 10;
        }
      }
  }
  return 0;
}
