// Split cross-attention with its loss, forward and backward, for any instruction set: a block of query rows at a time,
// whose maps (rows x 80) stay in the caches nearest to the core. All tokens of a row are at hand at once, so the
// softmax is the plain one; the backward pass computes both maps anew. Included by one file for each instruction set,
// after its target pragma: everything here is local to that file.
//
// What `Isa` gives: V, a vector of kLanes floats, with load, store, set, add, sub, mul, fma (a*b+c), max (NaN wins),
// horizontal max and sum, exp2, probability (an exp2 as exact as the element type needs), rounded (a product that must
// not become part of an fma: equal maps have no difference); rows of the element type in and out (load_n, store_n); U,
// a vector of units (gemm.h); kRows, the rows of a block, and kRowStep, what their count is rounded up to; kDepth, what
// the depth of a product is a multiple of, in units; product (C = A B) and add_transposed_product (C += A^T B);
// transpose; and where a unit is a pair, store_pairs and interleave.
#pragma once

#include <cstring>
#include <type_traits>

#include "cpu/gemm.h"
#include "cpu/rows.h"

namespace swap::cpu {
namespace {

template <class T, class Isa>
struct Attention {
  using V = typename Isa::V;
  using Unit = typename Isa::Unit;
  static constexpr int kLanes = Isa::kLanes, kPair = Isa::kPair, kRows = Isa::kRows;

  const Problem& p;
  const bool reference;
  const int64_t tokens, width;       // L and d, padded to 16
  const int64_t depth, token_depth;  // d and L as depths of a product, in units
  const int64_t row_units;           // of a row of Q or dO in a block

  // B operands, packed once an item: transposed [depth, tokens] for products with K^T or V^T, else [token_depth,
  // width].
  Unit *keys_t, *reference_t, *values_t, *keys, *values;
  Unit *packing, *q, *g;                   // rows: for packing; of Q and dO
  float *s, *s_ref, *dp, *wide;            // rows x tokens, and rows x width
  float* sums;                             // dK and dV of a head that is one item
  Unit *map, *ds;                          // A_t and dS as operands; where a unit is a float, in the place of s and dp
  Unit *map_t, *ds_t, *q_pairs, *g_pairs;  // the same in pairs along the rows, for the sums over rows
  float* weights;                          // by token
  float* bias;                             // pushes out what is no token; where that depends on the query, bias_of

  Attention(const Problem& problem, Arena& arena, bool backward)
      : p(problem),
        reference(problem.k_ref.data != nullptr),
        tokens(padded_tokens(problem)),
        width(padded_width(problem)),
        depth(round_up(divide_up(problem.width, kPair), Isa::kDepth)),
        token_depth(round_up(tokens / kPair, Isa::kDepth)),
        row_units(depth > width / kPair ? depth : width / kPair) {
    weights = arena.take<float>(tokens);
    bias = arena.take<float>(p.causal ? p.queries + tokens : tokens);
    keys_t = arena.take<Unit>(depth * tokens);
    reference_t = reference ? arena.take<Unit>(depth * tokens) : nullptr;
    values_t = backward ? arena.take<Unit>(depth * tokens) : nullptr;
    keys = backward ? arena.take<Unit>(token_depth * width) : nullptr;
    values = backward ? nullptr : arena.take<Unit>(token_depth * width);
    packing = arena.take<Unit>(token_depth * kPair * row_units);
    q = arena.take<Unit>(kRows * row_units);
    g = backward ? arena.take<Unit>(kRows * row_units) : nullptr;
    s = arena.take<float>(kRows * tokens);
    s_ref = reference ? arena.take<float>(kRows * tokens) : nullptr;
    dp = backward ? arena.take<float>(kRows * tokens) : nullptr;
    wide = arena.take<float>(kRows * width);
    sums = backward && p.dk.data && !p.dkv ? arena.take<float>(dkv_size(p)) : nullptr;
    if constexpr (kPair == 1) {
      map = map_t = s, ds = ds_t = dp, q_pairs = q, g_pairs = g;
    } else {
      map = arena.take<Unit>(kRows * token_depth);
      ds = backward ? arena.take<Unit>(kRows * token_depth) : nullptr;
      map_t = backward ? arena.take<Unit>(kRows / 2 * tokens) : nullptr;
      ds_t = backward ? arena.take<Unit>(kRows / 2 * tokens) : nullptr;
      q_pairs = backward ? arena.take<Unit>(kRows / 2 * width) : nullptr;
      g_pairs = backward ? arena.take<Unit>(kRows / 2 * width) : nullptr;
    }
  }

  struct Item {
    int64_t batch, head, begin, end;
  };
  Item item(int64_t index) const {
    const int64_t chunk = index % p.chunks, head = index / p.chunks;
    const int64_t begin = chunk * p.chunk_rows, end = begin + p.chunk_rows;
    return {head / p.heads, head % p.heads, begin, end < p.queries ? end : p.queries};
  }

  template <class Data>
  static auto* head_of(const Rows<Data>& rows, const Item& at) {
    if constexpr (std::is_const_v<Data>) {
      return static_cast<const T*>(rows.data) + at.batch * rows.batch + at.head * rows.head;
    } else {
      return static_cast<T*>(rows.data) + at.batch * rows.batch + at.head * rows.head;
    }
  }

  void load_rows(const T* from, int64_t stride, int64_t count, int64_t padded_count, Unit* to) const {
    cpu::load_rows<T, Isa>(from, stride, p.width, count, padded_count, to, row_units);
  }

  void store_rows(const float* from, int64_t count, T* to, int64_t stride) const {
    cpu::store_rows<T, Isa>(from, width, 1, p.width, count, to, stride);
  }

  void pack(const Rows<const void>& rows, const Item& at, Unit* transposed, Unit* plain) const {
    const bool in_place = kPair == 1 && plain && row_units == width;
    Unit* const loaded = in_place ? plain : packing;
    load_rows(head_of(rows, at), rows.row, p.tokens, token_depth * kPair, loaded);
    if (transposed) Isa::transpose(loaded, row_units, tokens, depth, transposed, tokens);
    if (!plain || in_place) return;
    if constexpr (kPair == 2) Isa::interleave(loaded, row_units, token_depth * 2, width, plain);
  }

  void begin(const Item& at) {
    for (int64_t t = 0; t < tokens; ++t) weights[t] = t >= p.tokens ? 0 : p.weights ? p.weights[t] : 1;
    const int64_t seen = p.causal ? p.queries : p.tokens, all = p.causal ? p.queries + tokens : tokens;
    for (int64_t t = 0; t < all; ++t) bias[t] = t < seen ? 0 : kNoToken;
    pack(p.k, at, keys_t, keys);
    pack(p.v, at, values_t, values);
    if (reference) pack(p.k_ref, at, reference_t, nullptr);
    if constexpr (kPair == 2) {
      // The depth beyond the tokens stays zero.
      std::memset(map, 0, kRows * token_depth * sizeof(Unit));
      if (ds) std::memset(ds, 0, kRows * token_depth * sizeof(Unit));
    }
  }

  // Of query n: its first n + 1 tokens, then none.
  const float* bias_of(int64_t query) const { return p.causal ? bias + p.queries - 1 - query : bias; }

  // A row of logits becomes a row of the map.
  template <int NV>
  void softmax(V (&x)[NV], const float* unseen) const {
    // Else only the last 16 columns can lack a token.
    const int first = p.causal ? 0 : NV - 16 / kLanes;
#pragma GCC unroll 32
    for (int j = 0; j < NV; ++j) {
      if (j >= first) x[j] = Isa::add(x[j], Isa::load(unseen + j * kLanes));
    }
    V top = x[0];
#pragma GCC unroll 32
    for (int j = 1; j < NV; ++j) top = Isa::max(top, x[j]);
    const float highest = Isa::horizontal_max(top);
    const V slope = Isa::set(p.slope), rest = Isa::set(p.slope_rest), shift = Isa::set(highest);
    V sum = Isa::set(0);
#pragma GCC unroll 32
    for (int j = 0; j < NV; ++j) {
      // Of logits beyond all bounds the difference is still at most 0; that of their products with the slope need not
      // be.
      const V below = Isa::sub(x[j], shift);
      if constexpr (kPair == 1) {
        // A rounded slope would be an error in one direction for all tokens.
        x[j] = Isa::exp2(Isa::fma(below, slope, Isa::mul(below, rest)));
      } else {
        x[j] = Isa::probability(Isa::mul(below, slope));
      }
      sum = Isa::add(sum, x[j]);
    }
    const V inverse = Isa::set(1 / Isa::horizontal_sum(sum));
#pragma GCC unroll 32
    for (int j = 0; j < NV; ++j) x[j] = Isa::rounded(Isa::mul(x[j], inverse));
  }

  template <int NV>
  static void load_row(V (&x)[NV], const float* from) {
#pragma GCC unroll 32
    for (int j = 0; j < NV; ++j) x[j] = Isa::load(from + j * kLanes);
  }

  template <int NV>
  static void store_operand(Unit* row, const V (&x)[NV]) {
#pragma GCC unroll 32
    for (int j = 0; j < NV; ++j) {
      if constexpr (kPair == 1) {
        Isa::store(row + j * kLanes, x[j]);
      } else {
        Isa::store_pairs(row, j, x[j]);
      }
    }
  }

  // Maps of `rows` rows from their logits, of which `first` is the first query, and their part of the loss.
  template <int NV, bool kReference>
  float maps_forward(int64_t first, int64_t rows) const {
    const int64_t map_row = kPair == 1 ? tokens : token_depth;
    V loss = Isa::set(0);
    for (int64_t i = 0; i < rows; ++i) {
      V a[NV];
      load_row(a, s + i * tokens);
      softmax(a, bias_of(first + i));
      store_operand(map + i * map_row, a);
      if (kPair == 2 && p.maps) {
        // Over its logits: an operand of pairs is rounded.
        for (int j = 0; j < NV; ++j) Isa::store(s + i * tokens + j * kLanes, a[j]);
      }
      if constexpr (kReference) {
        V r[NV];
        load_row(r, s_ref + i * tokens);
        softmax(r, bias_of(first + i));
#pragma GCC unroll 32
        for (int j = 0; j < NV; ++j) {
          const V difference = Isa::sub(a[j], r[j]);
          loss = Isa::fma(Isa::mul(difference, Isa::load(weights + j * kLanes)), difference, loss);
        }
      }
    }
    return kReference ? Isa::horizontal_sum(loss) : 0;
  }

  // A_t, and dS = s A_t (dA - sum(A_t dA)) with dA = dO V^T + gain w (A_t - A_r).
  template <int NV, bool kReference>
  void maps_backward(int64_t first, int64_t rows, float gain) const {
    const int64_t map_row = kPair == 1 ? tokens : token_depth;
    for (int64_t i = 0; i < rows; ++i) {
      V a[NV], da[NV];
      load_row(a, s + i * tokens);
      softmax(a, bias_of(first + i));
      load_row(da, dp + i * tokens);
      if constexpr (kReference) {
        V r[NV];
        load_row(r, s_ref + i * tokens);
        softmax(r, bias_of(first + i));
        const V g = Isa::set(gain);
#pragma GCC unroll 32
        for (int j = 0; j < NV; ++j) {
          da[j] = Isa::fma(Isa::mul(Isa::sub(a[j], r[j]), Isa::load(weights + j * kLanes)), g, da[j]);
        }
      }
      V dot = Isa::set(0);
#pragma GCC unroll 32
      for (int j = 0; j < NV; ++j) dot = Isa::fma(a[j], da[j], dot);
      const V mean = Isa::set(Isa::horizontal_sum(dot)), scale = Isa::set(p.scale);
#pragma GCC unroll 32
      for (int j = 0; j < NV; ++j) da[j] = Isa::mul(Isa::mul(a[j], scale), Isa::sub(da[j], mean));
      store_operand(map + i * map_row, a);
      store_operand(ds + i * map_row, da);
    }
  }

  // The same for any number of tokens: their count in vectors becomes a constant.
  template <int kSixteens, bool kReference>
  float maps(int64_t first, int64_t rows, bool backward, float gain) const {
    constexpr int NV = kSixteens * 16 / kLanes;
    if (!backward) return maps_forward<NV, kReference>(first, rows);
    maps_backward<NV, kReference>(first, rows, gain);
    return 0;
  }
  template <bool kReference>
  float maps(int64_t first, int64_t rows, bool backward, float gain) const {
    switch (tokens / 16) {
      case 1:
        return maps<1, kReference>(first, rows, backward, gain);
      case 2:
        return maps<2, kReference>(first, rows, backward, gain);
      case 3:
        return maps<3, kReference>(first, rows, backward, gain);
      case 4:
        return maps<4, kReference>(first, rows, backward, gain);
      default:
        return maps<5, kReference>(first, rows, backward, gain);
    }
  }
  float maps(int64_t first, int64_t rows, bool backward, float gain) const {
    return reference ? maps<true>(first, rows, backward, gain) : maps<false>(first, rows, backward, gain);
  }

  // The rows of a block; the next block's are asked for meanwhile. They lie a whole row of heads apart, which no
  // processor foresees.
  void load_block(const Rows<const void>& tensor, const Item& at, int64_t row, int64_t rows, Unit* to) const {
    const T* const from = head_of(tensor, at) + row * tensor.row;
    load_rows(from, tensor.row, rows, round_up(rows, Isa::kRowStep), to);
    const int64_t next = row + 2 * kRows < at.end ? kRows : at.end - row - kRows;
    for (int64_t i = 0; i < next; ++i) {
      const auto* const line = reinterpret_cast<const char*>(from + (kRows + i) * tensor.row);
      for (int64_t byte = 0; byte < p.width * int64_t(sizeof(T)); byte += 64) __builtin_prefetch(line + byte);
    }
  }

  void logits(const Item& at, int64_t row, int64_t rows) const {
    const int64_t padded = round_up(rows, Isa::kRowStep);
    load_block(p.q, at, row, rows, q);
    Isa::product(q, row_units, keys_t, tokens, s, tokens, padded, tokens, depth);
    if (reference) Isa::product(q, row_units, reference_t, tokens, s_ref, tokens, padded, tokens, depth);
  }

  int64_t map_row() const { return kPair == 1 ? tokens : token_depth; }

  void forward(int64_t index) {
    const Item at = item(index);
    begin(at);
    double loss = 0;
    for (int64_t row = at.begin; row < at.end; row += kRows) {
      const int64_t rows = at.end - row < kRows ? at.end - row : kRows;
      logits(at, row, rows);
      loss += maps(row, rows, false, 0);
      if (p.maps) {
        float* const to = p.maps + ((at.batch * p.heads + at.head) * p.queries + row) * p.tokens;
        for (int64_t i = 0; i < rows; ++i) std::memcpy(to + i * p.tokens, s + i * tokens, p.tokens * sizeof(float));
      }
      Isa::product(map, map_row(), values, width, wide, width, round_up(rows, Isa::kRowStep), width, token_depth);
      store_rows(wide, rows, head_of(p.out, at) + row * p.out.row, p.out.row);
    }
    if (p.loss) p.loss[index] = loss;
  }

  void backward(int64_t index) {
    const Item at = item(index);
    begin(at);
    const float gain = p.dloss ? 2 * p.dloss[at.batch] / static_cast<float>(p.heads) : 0;
    float* const dk = p.dkv ? p.dkv + index * dkv_size(p) : sums;
    if (dk) std::memset(dk, 0, dkv_size(p) * sizeof(float));
    for (int64_t row = at.begin; row < at.end; row += kRows) {
      const int64_t rows = at.end - row < kRows ? at.end - row : kRows;
      const int64_t padded = round_up(rows, Isa::kRowStep);
      logits(at, row, rows);
      load_block(p.dout, at, row, rows, g);
      Isa::product(g, row_units, values_t, tokens, dp, tokens, padded, tokens, depth);
      maps(row, rows, true, gain);
      if (rows < padded) {
        std::memset(map + rows * map_row(), 0, (padded - rows) * map_row() * sizeof(Unit));
        std::memset(ds + rows * map_row(), 0, (padded - rows) * map_row() * sizeof(Unit));
      }
      if (p.dq.data) {
        Isa::product(ds, map_row(), keys, width, wide, width, padded, width, token_depth);
        store_rows(wide, rows, head_of(p.dq, at) + row * p.dq.row, p.dq.row);
      }
      if (!dk) continue;
      if constexpr (kPair == 2) {
        Isa::interleave(map, token_depth, padded, tokens, map_t);
        Isa::interleave(ds, token_depth, padded, tokens, ds_t);
        Isa::interleave(q, row_units, padded, width, q_pairs);
        Isa::interleave(g, row_units, padded, width, g_pairs);
      }
      const int64_t pair_row = kPair == 1 ? row_units : width;
      Isa::add_transposed_product(ds_t, tokens, q_pairs, pair_row, dk, width, tokens, width, padded / kPair);
      Isa::add_transposed_product(map_t, tokens, g_pairs, pair_row, dk + tokens * width, width, tokens, width,
                                  padded / kPair);
    }
    if (sums) store_sums(at, sums);
  }

  // dK and dV of a head.
  void store_sums(const Item& at, const float* sum) const {
    store_rows(sum, p.tokens, head_of(p.dk, at), p.dk.row);
    store_rows(sum + tokens * width, p.tokens, head_of(p.dv, at), p.dv.row);
  }
};

// The sums of one head's items, in their order, become rows of dK and dV. No workspace is needed.
template <class T, class Isa>
void finish_backward(const Problem& p, int64_t head) {
  Arena arena(nullptr);
  const Attention<T, Isa> attention(p, arena, true);
  const int64_t size = dkv_size(p);
  float* const sum = p.dkv + head * p.chunks * size;
  for (int64_t i = 1; i < p.chunks; ++i) {
    const float* const next = sum + i * size;
    for (int64_t c = 0; c < size; c += Isa::kLanes) {
      Isa::store(sum + c, Isa::add(Isa::load(sum + c), Isa::load(next + c)));
    }
  }
  const typename Attention<T, Isa>::Item at{head / p.heads, head % p.heads, 0, 0};
  attention.store_sums(at, sum);
}

template <class T, class Isa>
size_t workspace(const Problem& p, bool backward) {
  Arena arena(nullptr);
  Attention<T, Isa>(p, arena, backward);
  return arena.used();
}

template <class T, class Isa>
void forward(const Problem& p, int64_t item, void* memory) {
  Arena arena(memory);
  Attention<T, Isa> attention(p, arena, false);
  Isa::enter();
  attention.forward(item);
  Isa::leave();
}

template <class T, class Isa>
void backward(const Problem& p, int64_t item, void* memory) {
  Arena arena(memory);
  Attention<T, Isa> attention(p, arena, true);
  Isa::enter();
  attention.backward(item);
  Isa::leave();
}

template <class T, class Isa>
constexpr Kernel make_kernel(const char* name, bool bfloat16) {
  return {name, bfloat16, workspace<T, Isa>, forward<T, Isa>, backward<T, Isa>, finish_backward<T, Isa>};
}

}  // namespace
}  // namespace swap::cpu
