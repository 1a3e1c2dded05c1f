// What a CPU kernel of split cross-attention is given: plain pointers, so that the files that are compiled for one
// instruction set each share nothing with the rest of the program that a linker could merge.
#pragma once

#include <cstddef>
#include <cstdint>

namespace swap::cpu {

constexpr int64_t kMaxTokens = 80;
constexpr int64_t kMaxWidth = 512;

// Static, like all functions here: a copy of their own in every file, never one that a linker took from the file for a
// newer processor.
static constexpr int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
static constexpr int64_t round_up(int64_t n, int64_t multiple) { return divide_up(n, multiple) * multiple; }

struct BFloat16 {
  uint16_t bits;
};

// A [B, H, rows, d] tensor: strides in elements, the last dimension dense. Without data it is not there.
template <class Data>
struct Rows {
  Data* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;  // strides
};

// The work is cut into items: a run of query rows of one head of one sample. The cut depends on the shapes alone, each
// item writes what only it writes, and sums over items are taken in their order: the same bits for any thread count.
struct Problem {
  int64_t batch = 0, heads = 0, queries = 0, tokens = 0, width = 0;  // B, H, N, L, d
  int64_t chunks = 1, chunk_rows = 0;                                // items of one head; query rows of an item
  float scale = 1;                                                   // 1 / sqrt(d)
  float slope = 1, slope_rest = 0;  // scale / ln 2, and what rounding it to a float left over
  bool causal = false;              // query n sees the tokens 0 .. n alone
  Rows<const void> q, k, v, k_ref, dout;
  const float* weights = nullptr;  // [L]; null: 1 everywhere
  const float* dloss = nullptr;    // [B]
  Rows<void> out, dq, dk, dv;
  float* maps = nullptr;   // forward: [B, H, N, L], A_t itself where it is wanted
  double* loss = nullptr;  // [items]
  // [items][2][L rounded up to 16][d rounded up to 16]: dK, dV of an item. Null where dK and dV are not wanted, or are
  // of heads that are one item each: those write them themselves.
  float* dkv = nullptr;
};

static constexpr int64_t padded_tokens(const Problem& p) { return round_up(p.tokens, 16); }
static constexpr int64_t padded_width(const Problem& p) { return round_up(p.width, 16); }
static constexpr int64_t dkv_size(const Problem& p) { return 2 * padded_tokens(p) * padded_width(p); }

// One make of the op: an element type and an instruction set.
struct Kernel {
  const char* name;
  bool bfloat16;                                       // what Q, K, V and O consist of: bfloat16, else float
  size_t (*workspace)(const Problem&, bool backward);  // bytes, for one item at a time
  void (*forward)(const Problem&, int64_t item, void* workspace);
  void (*backward)(const Problem&, int64_t item, void* workspace);
  void (*finish_backward)(const Problem&, int64_t head);  // dK and dV from dkv, where it is there; B * H heads
};

}  // namespace swap::cpu
