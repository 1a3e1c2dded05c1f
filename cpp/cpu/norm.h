// Normalisation, forward and backward, for any instruction set. Of groups, with SiLU, over channels-last pixels: a pass
// for the sums and a pass for the values, nothing in between that is stored. Of layers: row by row. Included by one
// file for each instruction set, after its target pragma: everything here is local to that file.
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

// T: of y and dy. Wide: of x, dx and the weights.
template <class T, class Wide, class Isa>
struct LayerNorm {
  using V = typename Isa::V;
  static constexpr int kLanes = Isa::kLanes;

  static void apply(const LayerNormProblem& p, int64_t row) {
    const Wide* const x = static_cast<const Wide*>(p.x) + row * p.width;
    T* const y = static_cast<T*>(p.out) + row * p.width;
    const auto *const weight = static_cast<const Wide*>(p.weight), *const bias = static_cast<const Wide*>(p.bias);
    const float n = static_cast<float>(p.width);
    V sum = Isa::set(0), squares = Isa::set(0);
    for (int64_t c = 0; c < p.width; c += kLanes) sum = Isa::add(sum, Isa::load(x + c));
    const float mean = Isa::horizontal_sum(sum) / n;
    const V m = Isa::set(mean);
    for (int64_t c = 0; c < p.width; c += kLanes) {
      const V d = Isa::sub(Isa::load(x + c), m);
      squares = Isa::fma(d, d, squares);
    }
    const float inverse = 1 / __builtin_sqrtf(Isa::horizontal_sum(squares) / n + p.eps);
    const V r = Isa::set(inverse);
    for (int64_t c = 0; c < p.width; c += kLanes) {
      const V normal = Isa::mul(Isa::sub(Isa::load(x + c), m), r);
      Isa::store(y + c, Isa::fma(normal, Isa::load(weight + c), Isa::load(bias + c)));
    }
    p.kept[2 * row] = mean, p.kept[2 * row + 1] = inverse;
  }

  // dx = r (w dy - mean(w dy) - xhat mean(w dy xhat)) with xhat = r (x - m)
  static void gradient(const LayerNormProblem& p, int64_t row) {
    const Wide* const x = static_cast<const Wide*>(p.x) + row * p.width;
    const T* const dy = static_cast<const T*>(p.dy) + row * p.width;
    Wide* const dx = static_cast<Wide*>(p.out) + row * p.width;
    const auto* const weight = static_cast<const Wide*>(p.weight);
    const V m = Isa::set(p.kept[2 * row]), r = Isa::set(p.kept[2 * row + 1]);
    V first = Isa::set(0), second = Isa::set(0);
    for (int64_t c = 0; c < p.width; c += kLanes) {
      const V g = Isa::mul(Isa::load(dy + c), Isa::load(weight + c));
      first = Isa::add(first, g);
      second = Isa::fma(g, Isa::mul(Isa::sub(Isa::load(x + c), m), r), second);
    }
    const float n = static_cast<float>(p.width);
    const V a = Isa::set(Isa::horizontal_sum(first) / n), b = Isa::set(Isa::horizontal_sum(second) / n);
    for (int64_t c = 0; c < p.width; c += kLanes) {
      const V g = Isa::mul(Isa::load(dy + c), Isa::load(weight + c));
      const V normal = Isa::mul(Isa::sub(Isa::load(x + c), m), r);
      Isa::store(dx + c, Isa::mul(r, Isa::sub(Isa::sub(g, a), Isa::mul(normal, b))));
    }
  }

  static constexpr LayerNormKernel kKernel{apply, gradient};
};

template <class T, class Isa>
constexpr NormKernel make_norm_kernel(bool bfloat16) {
  using N = Norm<T, Isa>;
  return {bfloat16,
          N::sums,
          N::apply,
          N::gradient_sums,
          N::gradient,
          LayerNorm<T, T, Isa>::kKernel,
          LayerNorm<T, float, Isa>::kKernel};
}

}  // namespace
}  // namespace swap::cpu
