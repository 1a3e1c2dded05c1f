// The sigmoid of a vector, for any instruction set. Included after a file's target pragma: everything here is local to
// that file.
#pragma once

namespace swap::cpu {
namespace {

template <class Isa>
typename Isa::V sigmoid(typename Isa::V z) {
  const auto e = Isa::exp2(Isa::min(Isa::mul(z, Isa::set(-1.44269504f)), Isa::set(126)));
  return Isa::div(Isa::set(1), Isa::add(Isa::set(1), e));
}

}  // namespace
}  // namespace swap::cpu
