// simt_plants NUMBER HEAD_SIZE [quick]: plants a bug (cuda/plant.cuh), runs a case of three tiles of rows in one block
// under all schedules (quick: one, which is enough for a sanitizer) and ends with 10 and what was wrong, with 0 where
// nothing was. Where the emulator or a sanitizer stops the program, that was it.
#include <cstdio>
#include <cstdlib>

#include "case.h"
#include "simt.h"

int main(int argc, char** argv) {
  if (argc < 3) return 1;
  simt::planted = std::atoi(argv[1]);
  const bool quick = argc > 3;
  const Spec spec{.head_size = std::atoi(argv[2]), .rows = 130, .batch = 1, .heads = 1, .blocks = 1};
  const auto inputs = make_inputs(spec);
  for (const simt::Order order : simt::kOrders)
    for (const bool late : {true, false}) {
      simt::options = {order, late, 1, 2};
      const Run result = run(spec, inputs);
      const char* seen = !result.guarded                                                     ? "guard"
                         : !result.finite                                                    ? "NaN"
                         : !result.agrees || !worse_than_eager(spec, inputs, result).empty() ? "error"
                                                                                             : nullptr;
      if (seen) {
        std::printf("%s\n", seen);
        return 10;
      }
      if (quick) return 0;
    }
  return 0;
}
