// GEGLU's way back and quick GELU, for any instruction set: one pass each. Included by one file for each instruction
// set, after its target pragma: everything here is local to that file.
#pragma once

#include "cpu/gelu_kernel.h"
#include "cpu/kernel.h"
#include "cpu/sigmoid.h"

namespace swap::cpu {
namespace {

template <class T, class Isa>
struct Gelu {
  using V = typename Isa::V;

  // gelu(z) = z P(z) and its slope P(z) + z p(z), with P and p the normal distribution and its density. One exponential
  // serves both: P's tail is a polynomial times p (Abramowitz & Stegun 7.1.26, error 7.5e-8).
  static void gelu(V z, V& value, V& slope) {
    const V zero = Isa::set(0), one = Isa::set(1), size = Isa::max(z, Isa::sub(zero, z));
    const V e = Isa::exp2(Isa::mul(Isa::mul(z, z), Isa::set(-0.72134752f)));  // exp(-z^2 / 2)
    const V t = Isa::div(one, Isa::fma(size, Isa::set(0.3275911f * 0.70710678f), one));
    V tail = Isa::set(0.5f * 1.061405429f);
    tail = Isa::fma(tail, t, Isa::set(0.5f * -1.453152027f));
    tail = Isa::fma(tail, t, Isa::set(0.5f * 1.421413741f));
    tail = Isa::fma(tail, t, Isa::set(0.5f * -0.284496736f));
    tail = Isa::fma(tail, t, Isa::set(0.5f * 0.254829592f));
    tail = Isa::mul(Isa::mul(tail, t), e);
    const V share = Isa::where_greater(z, zero, Isa::sub(one, tail), tail);
    value = Isa::mul(z, share);
    slope = Isa::fma(Isa::mul(z, e), Isa::set(0.39894228f), share);
  }

  static void geglu_gradient(const GegluProblem& p, int64_t row) {
    const int64_t n = p.width;
    const T *const a = static_cast<const T*>(p.halves) + 2 * row * n, *const dy = static_cast<const T*>(p.dy) + row * n;
    T* const out = static_cast<T*>(p.out) + 2 * row * n;
    for (int64_t i = 0; i < n; i += Isa::kLanes) {
      V value, slope;
      gelu(Isa::load(a + n + i), value, slope);
      const V d = Isa::load(dy + i);
      Isa::store(out + i, Isa::mul(d, value));
      Isa::store(out + n + i, Isa::mul(Isa::mul(d, Isa::load(a + i)), slope));
    }
  }

  static void quick(const QuickGeluProblem& p, int64_t begin, int64_t end) {
    const T* const x = static_cast<const T*>(p.x);
    T* const out = static_cast<T*>(p.out);
    for (int64_t i = begin; i < end; i += Isa::kLanes) {
      const V z = Isa::load(x + i);
      Isa::store(out + i, Isa::mul(z, sigmoid<Isa>(Isa::mul(z, Isa::set(1.702f)))));
    }
  }

  static void quick_gradient(const QuickGeluProblem& p, int64_t begin, int64_t end) {
    const T *const x = static_cast<const T*>(p.x), *const dy = static_cast<const T*>(p.dy);
    T* const out = static_cast<T*>(p.out);
    for (int64_t i = begin; i < end; i += Isa::kLanes) {
      const V slope = silu_slope<Isa>(Isa::mul(Isa::load(x + i), Isa::set(1.702f)));
      Isa::store(out + i, Isa::mul(Isa::load(dy + i), slope));
    }
  }
};

template <class T, class Isa>
constexpr GeluKernel make_gelu_kernel(bool bfloat16) {
  using G = Gelu<T, Isa>;
  return {bfloat16, G::geglu_gradient, G::quick, G::quick_gradient};
}

}  // namespace
}  // namespace swap::cpu
