// Self-attention, forward and backward, for any instruction set: blocks of keys times blocks of queries, whose maps
// stay in the caches nearest to the core. Maps are computed transposed, a key a row and a query a lane: then the maxima
// and sums of the softmax are taken lane by lane, and what becomes of a block of the map is the right-hand operand of
// the product that follows. Included by one file for each instruction set, after its target pragma: everything here is
// local to that file.
//
// What `Isa` gives beyond what attention.h asks for: kTileRows, what the rows of a product are a multiple of;
// add_product (C += A B); probability, an exp2 as exact as the element type needs; where_greater (a > b ? x : y); and
// where a unit is a pair, store_two_rows and store_interleaved.
#pragma once

#include <cstring>
#include <type_traits>

#include "cpu/flash_kernel.h"
#include "cpu/gemm.h"
#include "cpu/rows.h"

namespace swap::cpu {
namespace {

template <class T, class Isa>
struct Flash {
  using V = typename Isa::V;
  using Unit = typename Isa::Unit;
  static constexpr int kLanes = Isa::kLanes, kPair = Isa::kPair, kGroups = kBlock / kLanes;
  static constexpr int64_t kBlockUnits = kBlock / kPair;  // a block as the depth of a product

  const FlashProblem& p;
  const int64_t width;      // d, padded to 16
  const int64_t depth;      // d as the depth of a product, in units
  const int64_t row_units;  // of a row of Q, K, V or dO
  const int64_t rows_d;     // d as the rows of a product

  explicit Flash(const FlashProblem& problem)
      : p(problem),
        width(round_up(problem.width, 16)),
        depth(round_up(divide_up(problem.width, kPair), Isa::kDepth)),
        row_units(depth > width / kPair ? depth : width / kPair),
        rows_d(round_up(problem.width, Isa::kTileRows)) {}

  template <class Data>
  auto* head_of(const Rows<Data>& rows, int64_t head) const {
    const int64_t offset = head / p.heads * rows.batch + head % p.heads * rows.head;
    if constexpr (std::is_const_v<Data>) {
      return static_cast<const T*>(rows.data) + offset;
    } else {
      return static_cast<T*>(rows.data) + offset;
    }
  }

  // A block of rows, zeros where it ends early.
  void load_block(const Rows<const void>& rows, int64_t head, int64_t block, int64_t count, Unit* to) const {
    const int64_t left = count - block * kBlock;
    load_rows<T, Isa>(head_of(rows, head) + block * kBlock * rows.row, rows.row, p.width, left < kBlock ? left : kBlock,
                      kBlock, to, row_units);
  }

  // A block of rows as [depth, kBlock]: each row a column.
  void turn(const Unit* rows, Unit* to) const { Isa::transpose(rows, row_units, kBlock, depth, to, kBlock); }

  // A block of rows as a right-hand operand whose depth is the rows: [kBlockUnits, width]. Floats are that already.
  void pair_rows(const Unit* rows, Unit* to) const {
    if constexpr (kPair == 1) {
      std::memcpy(to, rows, kBlock * width * sizeof(Unit));
    } else {
      Isa::interleave(rows, row_units, kBlock, width, to);
    }
  }

  // A block of rows as a left-hand operand whose depth is the rows: [rows_d, kBlockUnits].
  void turn_pairs(const Unit* rows, Unit* paired, Unit* to) const {
    const Unit* from = rows;
    if constexpr (kPair == 2) {
      pair_rows(rows, paired);
      from = paired;
    }
    Isa::transpose(from, kPair == 1 ? row_units : width, kBlockUnits, rows_d, to, kBlockUnits);
  }

  // [d, kBlock] floats, times `factor`, as a block of rows.
  void store_turned(const float* from, float factor, float* turned, const Rows<void>& to, int64_t head, int64_t block,
                    int64_t count) const {
    if constexpr (kPair == 1) {
      Isa::transpose(from, kBlock, width, kBlock, turned, width);
    } else {
      Isa::transpose(reinterpret_cast<const Unit*>(from), kBlock, width, kBlock, reinterpret_cast<Unit*>(turned),
                     width);
    }
    store_block(turned, factor, to, head, block, count);
  }

  void store_block(const float* from, float factor, const Rows<void>& to, int64_t head, int64_t block,
                   int64_t count) const {
    const int64_t left = count - block * kBlock;
    store_rows<T, Isa>(from, width, factor, p.width, left < kBlock ? left : kBlock,
                       head_of(to, head) + block * kBlock * to.row, to.row);
  }

  // ---- forward ----

  struct Keys {  // of a head: rows of K, and V turned, block by block
    Unit *k, *v;
    Keys(const Flash& f, char* memory) {
      Arena arena(memory);
      k = arena.take<Unit>(key_blocks(f.p) * kBlock * f.row_units);
      v = arena.take<Unit>(key_blocks(f.p) * f.rows_d * kBlockUnits);
      bytes = static_cast<int64_t>(arena.used());
    }
    int64_t bytes;
  };

  struct ForwardSpace {
    Unit *rows, *paired, *q, *map;
    float *s, *o, *turned;
    ForwardSpace(const Flash& f, void* memory) {
      Arena arena(memory);
      rows = arena.take<Unit>(kBlock * f.row_units);
      paired = arena.take<Unit>(kBlockUnits * f.width);
      q = arena.take<Unit>(f.depth * kBlock);
      s = arena.take<float>(kBlock * kBlock);
      o = arena.take<float>(f.width * kBlock);
      turned = arena.take<float>(f.width * kBlock);
      map = arena.take<Unit>(kBlockUnits * kBlock);
      bytes = static_cast<int64_t>(arena.used());
    }
    int64_t bytes;
  };

  void prepare_forward(int64_t head, void* memory) const {
    const ForwardSpace space(*this, memory);
    const Keys keys(*this, p.prepared + head * p.head_bytes);
    for (int64_t b = 0; b < key_blocks(p); ++b) {
      load_block(p.k, head, b, p.keys, keys.k + b * kBlock * row_units);
      load_block(p.v, head, b, p.keys, space.rows);
      turn_pairs(space.rows, space.paired, keys.v + b * rows_d * kBlockUnits);
    }
  }

  // exp2 of logits, from a row's `shift`, which stands where the map shall be 1.
  V probability(V logit, V shift) const {
    if constexpr (kPair == 1) {
      // A rounded slope would be an error in one direction for all keys.
      const V below = Isa::sub(logit, shift);
      return Isa::probability(Isa::fma(below, Isa::set(p.slope), Isa::mul(below, Isa::set(p.slope_rest))));
    } else {
      return Isa::probability(Isa::fma(logit, Isa::set(p.slope), Isa::mul(shift, Isa::set(-p.slope))));
    }
  }

  // Writes what `row(i, j)` gives for rows 0 .. rows - 1 and lane group j as a right-hand operand.
  template <class Row>
  static void store_map(int64_t rows, int j, Unit* map, Row&& row) {
    if constexpr (kPair == 1) {
      for (int64_t i = 0; i < rows; ++i) Isa::store(map + i * kBlock + j * kLanes, row(i));
    } else {
      for (int64_t i = 0; i + 1 < rows; i += 2) {
        const V first = row(i), second = row(i + 1);
        Isa::store_interleaved(map + i / 2 * kBlock + j * kLanes, first, second);
      }
      if (rows % 2) Isa::store_interleaved(map + rows / 2 * kBlock + j * kLanes, row(rows - 1), Isa::set(0));
    }
  }

  void forward(int64_t item, void* memory) const {
    const int64_t head = item / p.chunks, first = item % p.chunks * p.chunk_blocks;
    const int64_t end = first + p.chunk_blocks < query_blocks(p) ? first + p.chunk_blocks : query_blocks(p);
    const ForwardSpace space(*this, memory);
    const Keys keys(*this, p.prepared + head * p.head_bytes);
    const V margin = Isa::set(6 / p.slope);
    float *const s = space.s, *const o = space.o;
    for (int64_t block = first; block < end; ++block) {
      load_block(p.q, head, block, p.queries, space.rows);
      turn(space.rows, space.q);
      V shift[kGroups], sum[kGroups];
      for (int j = 0; j < kGroups; ++j) shift[j] = Isa::set(kNoToken), sum[j] = Isa::set(0);
      std::memset(o, 0, width * kBlock * sizeof(float));
      for (int64_t b = 0; b < key_blocks(p); ++b) {
        const int64_t left = p.keys - b * kBlock, rows = left < kBlock ? left : kBlock;
        Isa::product(keys.k + b * kBlock * row_units, row_units, space.q, kBlock, s, kBlock,
                     round_up(rows, Isa::kTileRows), kBlock, depth);
        for (int j = 0; j < kGroups; ++j) {
          const float* const column = s + j * kLanes;
          V top = Isa::load(column), other = top;
          int64_t i = 0;
          for (; i + 1 < rows; i += 2) {
            top = Isa::max(top, Isa::load(column + i * kBlock));
            other = Isa::max(other, Isa::load(column + (i + 1) * kBlock));
          }
          if (i < rows) top = Isa::max(top, Isa::load(column + i * kBlock));
          top = Isa::max(top, other);
          // What a row is measured from need not be its maximum, only near it: then it hardly ever moves.
          const V moved = Isa::where_greater(top, Isa::add(shift[j], margin), top, shift[j]);
          if (Isa::horizontal_max(Isa::sub(moved, shift[j])) > 0) {
            const V factor = probability(shift[j], moved);
            sum[j] = Isa::mul(sum[j], factor);
            for (int64_t c = 0; c < p.width; ++c) {
              float* const at = o + c * kBlock + j * kLanes;
              Isa::store(at, Isa::mul(Isa::load(at), factor));
            }
            shift[j] = moved;
          }
          const V from = shift[j];
          V total = sum[j];
          store_map(rows, j, space.map, [&](int64_t i) {
            const V x = probability(Isa::load(column + i * kBlock), from);
            total = Isa::add(total, x);
            return x;
          });
          sum[j] = total;
        }
        const int64_t used = divide_up(rows, kPair);
        if (used < kBlockUnits) std::memset(space.map + used * kBlock, 0, (kBlockUnits - used) * kBlock * sizeof(Unit));
        Isa::add_product(keys.v + b * rows_d * kBlockUnits, kBlockUnits, space.map, kBlock, o, kBlock, rows_d, kBlock,
                         kBlockUnits);
      }
      finish_rows(head, block, shift, sum, space);
    }
  }

  // O from what was summed up, and the logarithm of the sums.
  void finish_rows(int64_t head, int64_t block, const V* shift, const V* sum, const ForwardSpace& space) const {
    alignas(64) float sums[kBlock], shifts[kBlock], inverse[kBlock];
    for (int j = 0; j < kGroups; ++j) {
      Isa::store(sums + j * kLanes, sum[j]);
      Isa::store(shifts + j * kLanes, shift[j]);
    }
    for (int64_t i = 0; i < kBlock; ++i) inverse[i] = 1 / sums[i];
    if (p.lse) {
      float* const to = p.lse + head * query_blocks(p) * kBlock + block * kBlock;
      for (int64_t i = 0; i < kBlock; ++i) to[i] = shifts[i] + __builtin_logf(sums[i]) / p.scale;
    }
    for (int64_t c = 0; c < width; ++c) {
      for (int j = 0; j < kGroups; ++j) {
        float* const at = space.o + c * kBlock + j * kLanes;
        Isa::store(at, Isa::mul(Isa::load(at), Isa::load(inverse + j * kLanes)));
      }
    }
    store_turned(space.o, 1, space.turned, p.out, head, block, p.queries);
  }

  // ---- backward ----

  struct Queries {  // of a head, block by block: Q and dO turned and as pairs of rows, and the rows' sums of O dO
    Unit *q_turned, *g_turned, *q, *g;
    float* delta;
    Queries(const Flash& f, char* memory) {
      Arena arena(memory);
      const int64_t blocks = query_blocks(f.p);
      q_turned = arena.take<Unit>(blocks * f.depth * kBlock);
      g_turned = arena.take<Unit>(blocks * f.depth * kBlock);
      q = arena.take<Unit>(blocks * kBlockUnits * f.width);
      g = arena.take<Unit>(blocks * kBlockUnits * f.width);
      delta = arena.take<float>(blocks * kBlock);
      bytes = static_cast<int64_t>(arena.used());
    }
    int64_t bytes;
  };

  struct BackwardSpace {
    Unit *paired, *k, *v, *k_turned;  // of a block of keys
    float *s, *dp;                    // keys x queries
    Unit *map, *ds, *ds_pairs;        // the map and its gradient: rows of pairs of queries, pairs of keys
    float *dk, *dv, *turned;
    BackwardSpace(const Flash& f, void* memory) {
      Arena arena(memory);
      paired = arena.take<Unit>(kBlockUnits * f.width);
      k = arena.take<Unit>(kBlock * f.row_units);
      v = arena.take<Unit>(kBlock * f.row_units);
      k_turned = arena.take<Unit>(f.rows_d * kBlockUnits);
      s = arena.take<float>(kBlock * kBlock);
      dp = arena.take<float>(kBlock * kBlock);
      if constexpr (kPair == 1) {
        map = s, ds = ds_pairs = dp;
      } else {
        map = arena.take<Unit>(kBlock * kBlockUnits);
        ds = arena.take<Unit>(kBlock * kBlockUnits);
        ds_pairs = arena.take<Unit>(kBlockUnits * kBlock);
      }
      dk = arena.take<float>(kBlock * f.width);
      dv = arena.take<float>(kBlock * f.width);
      turned = arena.take<float>(f.width * kBlock);
      bytes = static_cast<int64_t>(arena.used());
    }
    int64_t bytes;
  };

  void prepare_backward(int64_t head, void* memory) const {
    const BackwardSpace space(*this, memory);
    const Queries queries(*this, p.prepared + head * p.head_bytes);
    for (int64_t b = 0; b < query_blocks(p); ++b) {
      load_block(p.q, head, b, p.queries, space.k);
      turn(space.k, queries.q_turned + b * depth * kBlock);
      pair_rows(space.k, queries.q + b * kBlockUnits * width);
      load_block(p.dout, head, b, p.queries, space.k);
      turn(space.k, queries.g_turned + b * depth * kBlock);
      pair_rows(space.k, queries.g + b * kBlockUnits * width);
    }
    const T *const o = head_of(p.o, head), *const g = head_of(p.dout, head);
    for (int64_t i = 0; i < query_blocks(p) * kBlock; ++i) {
      V sum = Isa::set(0);
      for (int64_t c = 0; i < p.queries && c < p.width; c += kLanes) {
        const T *const a = o + i * p.o.row + c, *const b = g + i * p.dout.row + c;
        const int n = p.width - c < kLanes ? static_cast<int>(p.width - c) : kLanes;
        sum = n == kLanes ? Isa::fma(Isa::load(a), Isa::load(b), sum)
                          : Isa::fma(Isa::load_n(a, n), Isa::load_n(b, n), sum);
      }
      queries.delta[i] = Isa::horizontal_sum(sum);
    }
  }

  // The map from its logits, and dS / s = map (dP - sum(O dO)).
  void maps_backward(const BackwardSpace& space, int64_t rows, const float* lse, const float* delta) const {
    for (int j = 0; j < kGroups; ++j) {
      const V shift = Isa::load(lse + j * kLanes), mean = Isa::load(delta + j * kLanes);
      const float *const s = space.s + j * kLanes, *const dp = space.dp + j * kLanes;
      if constexpr (kPair == 1) {
        for (int64_t i = 0; i < rows; ++i) {
          const V x = probability(Isa::load(s + i * kBlock), shift);
          Isa::store(space.ds + i * kBlock + j * kLanes, Isa::mul(x, Isa::sub(Isa::load(dp + i * kBlock), mean)));
          Isa::store(space.map + i * kBlock + j * kLanes, x);
        }
      } else {
        for (int64_t i = 0; i < rows; i += 2) {
          const V zero = Isa::set(0);
          const bool both = i + 1 < rows;
          const V x = probability(Isa::load(s + i * kBlock), shift);
          const V y = both ? probability(Isa::load(s + (i + 1) * kBlock), shift) : zero;
          const V dx = Isa::mul(x, Isa::sub(Isa::load(dp + i * kBlock), mean));
          const V dy = both ? Isa::mul(y, Isa::sub(Isa::load(dp + (i + 1) * kBlock), mean)) : zero;
          Isa::store_two_rows(space.map + i * kBlockUnits, space.map + (i + 1) * kBlockUnits, j, x, y);
          Isa::store_two_rows(space.ds + i * kBlockUnits, space.ds + (i + 1) * kBlockUnits, j, dx, dy);
          Isa::store_interleaved(space.ds_pairs + i / 2 * kBlock + j * kLanes, dx, dy);
        }
      }
    }
    const int64_t used = divide_up(rows, kPair);
    if (used < kBlockUnits) {
      std::memset(space.ds_pairs + used * kBlock, 0, (kBlockUnits - used) * kBlock * sizeof(Unit));
    }
  }

  static void accumulate(bool first, const Unit* a, int64_t lda, const Unit* b, int64_t ldb, float* c, int64_t ldc,
                         int64_t rows, int64_t columns, int64_t depth) {
    if (first) {
      Isa::product(a, lda, b, ldb, c, ldc, rows, columns, depth);
    } else {
      Isa::add_product(a, lda, b, ldb, c, ldc, rows, columns, depth);
    }
  }

  void backward(int64_t item, void* memory) const {
    const int64_t head = item / p.chunks, first = item % p.chunks * p.chunk_blocks;
    const int64_t end = first + p.chunk_blocks < key_blocks(p) ? first + p.chunk_blocks : key_blocks(p);
    const BackwardSpace space(*this, memory);
    const Queries queries(*this, p.prepared + head * p.head_bytes);
    float* const dq = p.dq_sums + item * dq_size(p);
    const float* const lse = p.lse + head * query_blocks(p) * kBlock;
    for (int64_t block = first; block < end; ++block) {
      const int64_t left = p.keys - block * kBlock, rows = left < kBlock ? left : kBlock;
      const int64_t padded = round_up(rows, Isa::kTileRows);
      load_block(p.k, head, block, p.keys, space.k);
      load_block(p.v, head, block, p.keys, space.v);
      turn_pairs(space.k, space.paired, space.k_turned);
      for (int64_t b = 0; b < query_blocks(p); ++b) {
        Isa::product(space.k, row_units, queries.q_turned + b * depth * kBlock, kBlock, space.s, kBlock, padded, kBlock,
                     depth);
        Isa::product(space.v, row_units, queries.g_turned + b * depth * kBlock, kBlock, space.dp, kBlock, padded,
                     kBlock, depth);
        maps_backward(space, rows, lse + b * kBlock, queries.delta + b * kBlock);
        accumulate(b == 0, space.map, kBlockUnits, queries.g + b * kBlockUnits * width, width, space.dv, width, padded,
                   width, kBlockUnits);
        accumulate(b == 0, space.ds, kBlockUnits, queries.q + b * kBlockUnits * width, width, space.dk, width, padded,
                   width, kBlockUnits);
        accumulate(block == first, space.k_turned, kBlockUnits, space.ds_pairs, kBlock, dq + b * width * kBlock, kBlock,
                   rows_d, kBlock, kBlockUnits);
      }
      store_block(space.dk, p.scale, p.dk, head, block, p.keys);
      store_block(space.dv, 1, p.dv, head, block, p.keys);
    }
  }

  void finish_backward(int64_t head, void* memory) const {
    const BackwardSpace space(*this, memory);
    for (int64_t b = 0; b < query_blocks(p); ++b) {
      float* const sum = p.dq_sums + head * p.chunks * dq_size(p) + b * width * kBlock;
      for (int64_t chunk = 1; chunk < p.chunks; ++chunk) {
        const float* const next = sum + chunk * dq_size(p);
        for (int64_t i = 0; i < p.width * kBlock; i += kLanes) {
          Isa::store(sum + i, Isa::add(Isa::load(sum + i), Isa::load(next + i)));
        }
      }
      store_turned(sum, p.scale, space.turned, p.dq, head, b, p.queries);
    }
  }
};

template <class T, class Isa>
struct FlashCalls {
  using F = Flash<T, Isa>;
  static int64_t head_bytes(const FlashProblem& p, bool backward) {
    const F f(p);
    return backward ? typename F::Queries(f, nullptr).bytes : typename F::Keys(f, nullptr).bytes;
  }
  static int64_t workspace(const FlashProblem& p, bool backward) {
    const F f(p);
    return backward ? typename F::BackwardSpace(f, nullptr).bytes : typename F::ForwardSpace(f, nullptr).bytes;
  }
  template <void (F::*kStep)(int64_t, void*) const>
  static void call(const FlashProblem& p, int64_t index, void* memory) {
    Isa::enter();
    (F(p).*kStep)(index, memory);
    Isa::leave();
  }
};

template <class T, class Isa>
constexpr FlashKernel make_flash_kernel(const char* name, bool bfloat16, int64_t best_width) {
  using F = Flash<T, Isa>;
  using Calls = FlashCalls<T, Isa>;
  return {name,
          bfloat16,
          best_width,
          Calls::head_bytes,
          Calls::workspace,
          Calls::template call<&F::prepare_forward>,
          Calls::template call<&F::forward>,
          Calls::template call<&F::prepare_backward>,
          Calls::template call<&F::backward>,
          Calls::template call<&F::finish_backward>};
}

}  // namespace
}  // namespace swap::cpu
