#include "reference.h"

#include <algorithm>
#include <cmath>

#include "bits.h"

namespace reference {
namespace {

// One head's view of the inputs.
struct Head {
  const Inputs& in;
  size_t row0, token0;  // first element of this head in [B,H,N,d] and [B,H,L,d]
  int batch;
};

template <class F>
void for_each_head(const Inputs& in, F&& f) {
  const Shape& s = in.shape;
  for (int b = 0; b < s.batch; ++b)
    for (int h = 0; h < s.heads; ++h) {
      const size_t head = size_t(b) * s.heads + h;
      f(Head{in, head * s.rows * s.head_size, head * s.tokens * s.head_size, b}, head);
    }
}

// softmax(scale * q k^T) of one row; `round` is applied where the plain version rounds: to q * scale and to the logits.
template <class Real, class Round>
void softmax_row(const Shape& s, const float* q, const float* k, Round round, Real* map) {
  std::vector<Real> scaled(s.head_size);
  for (int x = 0; x < s.head_size; ++x) scaled[x] = round(Real(q[x]) * Real(s.scale));
  Real largest = -INFINITY, sum = 0;
  for (int t = 0; t < s.tokens; ++t) {
    Real dot = 0;
    for (int x = 0; x < s.head_size; ++x) dot += scaled[x] * Real(k[t * s.head_size + x]);
    map[t] = round(dot);
    largest = std::max(largest, map[t]);
  }
  for (int t = 0; t < s.tokens; ++t) sum += map[t] = std::exp(map[t] - largest);
  for (int t = 0; t < s.tokens; ++t) map[t] /= sum;
}

// The op's formulas, with `round` wherever a tensor of the element type is made.
template <class Real, class Round>
Results compute(const Inputs& in, Round round) {
  const Shape& s = in.shape;
  const int d = s.head_size;
  Results r;
  r.out.resize(in.q.size());
  r.dq.resize(in.q.size());
  r.dk.resize(in.k.size());
  r.dv.resize(in.k.size());
  r.loss.resize(s.batch);
  r.maps.resize(size_t(s.batch) * s.heads * s.rows * s.tokens);
  for_each_head(in, [&](const Head& head, size_t index) {
    std::vector<Real> map(s.tokens), ref(s.tokens), gradient(s.tokens), row(d);
    std::vector<Real> dk(s.tokens * d), dv(s.tokens * d);
    const float* k = in.k.data() + head.token0;
    const float* v = in.v.data() + head.token0;
    for (int n = 0; n < s.rows; ++n) {
      const size_t at = head.row0 + size_t(n) * d;
      const float* q = in.q.data() + at;
      const float* dout = in.dout.data() + at;
      softmax_row(s, q, k, round, map.data());
      std::copy(map.begin(), map.end(), r.maps.begin() + (index * s.rows + n) * s.tokens);
      if (!in.k_ref.empty()) softmax_row(s, q, in.k_ref.data() + head.token0, round, ref.data());
      Real inner = 0;
      std::fill(row.begin(), row.end(), Real(0));
      for (int t = 0; t < s.tokens; ++t) {
        const Real p = round(map[t]);
        Real dot = 0;
        for (int x = 0; x < d; ++x) {
          row[x] += p * Real(v[t * d + x]);
          dot += Real(dout[x]) * Real(v[t * d + x]);
          dv[t * d + x] += p * Real(dout[x]);
        }
        gradient[t] = round(dot);
        if (!in.k_ref.empty()) {
          const Real difference = map[t] - ref[t];
          r.loss[head.batch] += in.weights[t] * difference * difference / s.heads;
          gradient[t] += 2 * Real(in.dloss[head.batch]) / s.heads * in.weights[t] * difference;
        }
        inner += map[t] * gradient[t];
      }
      for (int x = 0; x < d; ++x) r.out[at + x] = round(row[x]);
      std::fill(row.begin(), row.end(), Real(0));
      for (int t = 0; t < s.tokens; ++t) {
        const Real ds = round(map[t] * (gradient[t] - inner));
        for (int x = 0; x < d; ++x) {
          row[x] += ds * Real(k[t * d + x]);
          dk[t * d + x] += ds * round(Real(q[x]) * Real(s.scale));
        }
      }
      for (int x = 0; x < d; ++x) r.dq[at + x] = round(round(row[x]) * Real(s.scale));
    }
    for (int i = 0; i < s.tokens * d; ++i) {
      r.dk[head.token0 + i] = round(dk[i]);
      r.dv[head.token0 + i] = round(dv[i]);
    }
  });
  return r;
}

}  // namespace

float from_bits(uint16_t bits, Element element) {
  return element == Element::bf16 ? bits::bf16_to_float(bits) : bits::half_to_float(bits);
}
uint16_t to_bits(float x, Element element) {
  return element == Element::bf16 ? bits::float_to_bf16(x) : bits::float_to_half(x);
}
float rounded(float x, Element element) { return from_bits(to_bits(x, element), element); }

Results exact(const Inputs& in) {
  return compute<double>(in, [](double x) { return x; });
}

Results eager(const Inputs& in) {
  if (in.shape.element == Element::bf16)
    return compute<float>(in, [](float x) { return bits::bf16_to_float(bits::float_to_bf16(x)); });
  return compute<float>(in, [](float x) { return bits::half_to_float(bits::float_to_half(x)); });
}

double objective(const Inputs& in, const std::vector<float>& reference_q) {
  const Shape& s = in.shape;
  const auto same = [](double x) { return x; };
  double sum = 0;
  for_each_head(in, [&](const Head& head, size_t) {
    std::vector<double> map(s.tokens), ref(s.tokens);
    for (int n = 0; n < s.rows; ++n) {
      const size_t at = head.row0 + size_t(n) * s.head_size;
      softmax_row(s, in.q.data() + at, in.k.data() + head.token0, same, map.data());
      softmax_row(s, reference_q.data() + at, in.k_ref.data() + head.token0, same, ref.data());
      for (int t = 0; t < s.tokens; ++t) {
        for (int x = 0; x < s.head_size; ++x)
          sum += map[t] * in.v[head.token0 + size_t(t) * s.head_size + x] * in.dout[at + x];
        sum += in.dloss[head.batch] / s.heads * in.weights[t] * (map[t] - ref[t]) * (map[t] - ref[t]);
      }
    }
  });
  return sum;
}

}  // namespace reference
