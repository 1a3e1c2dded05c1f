// Random numbers. Pictures take theirs from one generator an image, seeded as diffusers seeds it; training draws by
// a counter (seed, step), so that a resume needs no generator's state.
#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

namespace swap {

inline at::Generator seeded(uint64_t seed) { return at::detail::createCPUGenerator(seed); }

// Independent streams for neighbouring (seed, counter) pairs, by SplitMix64's finalizer.
inline at::Generator seeded(uint64_t seed, uint64_t counter) {
  uint64_t z = seed * 0x9E3779B97F4A7C15ull + (counter + 1) * 0xD1B54A32D192ED03ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return seeded(z ^ (z >> 31));
}

}  // namespace swap
