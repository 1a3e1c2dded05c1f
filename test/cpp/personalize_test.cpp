// What is learnt, where it starts.
#include <ATen/CPUGeneratorImpl.h>

#include "checks.h"
#include "personalize/subject_module.h"

using namespace swap;

TEST_CASE("a subject starts as its class word, whatever the width of the text encoder") {
  for (const int64_t width : {32, 64, 100, 192, 200, 224}) {
    CAPTURE(width);
    const auto word = at::randn({2, width}, at::detail::createCPUGenerator(1));
    const SubjectModule module({3, 2, true, false}, word, at::scalar_tensor(0.5), at::detail::createCPUGenerator(2));
    const auto [k, v] = module.vectors();
    CHECK(at::equal(k, word.expand({3, 2, width})));
    CHECK(at::equal(v, k));
  }
}
