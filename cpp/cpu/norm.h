// Group normalisation and SiLU over channels-last pixels, forward and backward, for any instruction set: a pass for the
// sums and a pass for the values, nothing in between that is stored. Included by one file for each instruction set,
// after its target pragma: everything here is local to that file.
#pragma once

#include <cstring>

#include "cpu/norm_kernel.h"
#include "cpu/sigmoid.h"

namespace swap::cpu {
namespace {

template <class T, class Isa>
struct Norm {
  using V = typename Isa::V;
  static constexpr int kLanes = Isa::kLanes;

  struct Item {
    int64_t sample, begin, end;
  };
  static Item item(const NormProblem& p, int64_t index) {
    const int64_t begin = index % p.chunks * p.chunk_pixels, end = begin + p.chunk_pixels;
    return {index / p.chunks, begin, end < p.pixels ? end : p.pixels};
  }

  // Sums of two values that `of(vector of x, vector of dy, channel)` gives, by channel: four vectors of channels at a
  // time, along the pixels.
  template <bool kGradient, class Of>
  static void sum_up(const NormProblem& p, int64_t index, Of&& of) {
    const Item at = item(p, index);
    const int64_t C = p.channels;
    const T* const x = static_cast<const T*>(p.x) + at.sample * p.pixels * C;
    const T* const dy = static_cast<const T*>(p.dy) + (kGradient ? at.sample * p.pixels * C : 0);
    float* const to = p.sums + index * 2 * C;
    std::memset(to, 0, 2 * C * sizeof(float));
    // Few pixels at a time, so that they stay in the nearest cache while the channels pass by.
    const int64_t rows = 8;
    for (int64_t row = at.begin; row < at.end; row += rows) {
      const int64_t last = row + rows < at.end ? row + rows : at.end;
      for (int64_t c = 0; c < C; c += kLanes) {
        V first = Isa::load(to + c), second = Isa::load(to + C + c);
        for (int64_t i = row; i < last; ++i) {
          const V value = Isa::load(x + i * C + c);
          of(at.sample * C + c, value, kGradient ? Isa::load(dy + i * C + c) : value, first, second);
        }
        Isa::store(to + c, first);
        Isa::store(to + C + c, second);
      }
    }
  }

  static void sums(const NormProblem& p, int64_t index) {
    sum_up<false>(p, index, [&](int64_t c, V x, V, V& sum, V& squares) {
      const V d = Isa::sub(x, Isa::load(p.pivot + c));
      sum = Isa::add(sum, d);
      squares = Isa::fma(d, d, squares);
    });
  }

  static void gradient_sums(const NormProblem& p, int64_t index) {
    sum_up<true>(p, index, [&](int64_t c, V x, V dy, V& sum, V& products) {
      const V dz = p.silu ? behind_silu(p, c, x, dy) : dy;
      sum = Isa::add(sum, dz);
      products = Isa::fma(dz, x, products);
    });
  }

  // dz of y = z sigmoid(z)
  static V behind_silu(const NormProblem& p, int64_t c, V x, V dy) {
    const V z = Isa::fma(x, Isa::load(p.scale + c), Isa::load(p.shift + c));
    return Isa::mul(dy, silu_slope<Isa>(z));
  }

  template <bool kGradient, class Of>
  static void transform(const NormProblem& p, int64_t index, Of&& of) {
    const Item at = item(p, index);
    const int64_t C = p.channels;
    for (int64_t i = at.begin; i < at.end; ++i) {
      const int64_t offset = (at.sample * p.pixels + i) * C;
      const T *const x = static_cast<const T*>(p.x) + offset, *const dy = static_cast<const T*>(p.dy);
      T* const out = static_cast<T*>(p.out) + offset;
      for (int64_t c = 0; c < C; c += kLanes) {
        const V value = Isa::load(x + c);
        Isa::store(out + c, of(at.sample * C + c, value, kGradient ? Isa::load(dy + offset + c) : value));
      }
    }
  }

  static void apply(const NormProblem& p, int64_t index) {
    if (p.silu) {
      transform<false>(p, index, [&](int64_t c, V x, V) {
        const V z = Isa::fma(x, Isa::load(p.scale + c), Isa::load(p.shift + c));
        return Isa::mul(z, sigmoid<Isa>(z));
      });
    } else {
      transform<false>(p, index,
                       [&](int64_t c, V x, V) { return Isa::fma(x, Isa::load(p.scale + c), Isa::load(p.shift + c)); });
    }
  }

  static void gradient(const NormProblem& p, int64_t index) {
    transform<true>(p, index, [&](int64_t c, V x, V dy) {
      const V dz = p.silu ? behind_silu(p, c, x, dy) : dy;
      return Isa::fma(dz, Isa::load(p.gain + c), Isa::fma(x, Isa::load(p.slope + c), Isa::load(p.offset + c)));
    });
  }
};

template <class T, class Isa>
constexpr NormKernel make_norm_kernel(bool bfloat16) {
  using N = Norm<T, Isa>;
  return {bfloat16, N::sums, N::apply, N::gradient_sums, N::gradient};
}

}  // namespace
}  // namespace swap::cpu
