#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "runtime/memory.h"

int main(int count, char** arguments) {
  swap::keep_blocks();  // as an engine does before anything else
  return doctest::Context(count, arguments).run();
}
