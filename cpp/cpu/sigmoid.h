// The sigmoid of a vector, and the slope of SiLU, for any instruction set. Included after a file's target pragma:
// everything here is local to that file.
#pragma once

namespace swap::cpu {
namespace {

template <class Isa>
typename Isa::V sigmoid(typename Isa::V z) {
  const auto e = Isa::exp2(Isa::min(Isa::mul(z, Isa::set(-1.44269504f)), Isa::set(126)));
  return Isa::div(Isa::set(1), Isa::add(Isa::set(1), e));
}

// Of z sigmoid(z); that of x sigmoid(c x) at z = c x, too.
template <class Isa>
typename Isa::V silu_slope(typename Isa::V z) {
  const auto s = sigmoid<Isa>(z);
  return Isa::fma(Isa::mul(z, s), Isa::sub(Isa::set(1), s), s);
}

}  // namespace
}  // namespace swap::cpu
