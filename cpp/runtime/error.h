// Errors inside the engine are exceptions; `guard` turns all of them into a Status at the one wall, engine.cpp.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace swap {

struct Error : std::runtime_error {
  Error(std::string code, std::string message, std::string hint = {})
      : std::runtime_error(std::move(message)), code(std::move(code)), hint(std::move(hint)) {}
  std::string code, hint;
};

// Thrown at the next block after a job's flag was set.
struct Cancelled : std::runtime_error {
  Cancelled() : std::runtime_error("cancelled") {}
};

}  // namespace swap
