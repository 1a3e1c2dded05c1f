// What a CPU kernel of self-attention is given, as kernel.h has it for split cross-attention.
#pragma once

#include "cpu/kernel.h"

namespace swap::cpu {

// Queries and keys are worked on in blocks of so many. A block of queries lies along the lanes.
constexpr int64_t kBlock = 64;

// O = softmax(s Q K^T) V. A forward and a backward pass both first prepare every head, then work on items: a run of
// query blocks of one head forth, a run of key blocks back. As everywhere here the cut depends on the shapes alone, and
// sums over items are taken in their order.
struct FlashProblem {
  int64_t batch = 0, heads = 0, queries = 0, keys = 0, width = 0;  // B, H, N, M, d
  int64_t chunks = 1, chunk_blocks = 1;                            // items of one head; blocks of an item
  float scale = 1;                                                 // 1 / sqrt(d)
  float slope = 1, slope_rest = 0;  // scale / ln 2, and what rounding it to a float left over
  Rows<const void> q, k, v, o, dout;
  Rows<void> out, dq, dk, dv;
  float* lse = nullptr;      // [B H][N rounded up to kBlock]: the logarithm of a row's sum, in units of its logits
  char* prepared = nullptr;  // what the heads are prepared to, `head_bytes` each
  int64_t head_bytes = 0;
  float* dq_sums = nullptr;  // [B H][chunks][dq_size]: what an item's keys give to dQ, transposed
};

static constexpr int64_t query_blocks(const FlashProblem& p) { return divide_up(p.queries, kBlock); }
static constexpr int64_t key_blocks(const FlashProblem& p) { return divide_up(p.keys, kBlock); }
static constexpr int64_t dq_size(const FlashProblem& p) { return query_blocks(p) * round_up(p.width, 16) * kBlock; }

struct FlashKernel {
  const char* name;
  bool bfloat16;
  int64_t best_width;  // up to this width of a head it is faster than LibTorch's
  int64_t (*head_bytes)(const FlashProblem&, bool backward);
  int64_t (*workspace)(const FlashProblem&, bool backward);  // bytes, for one head or item at a time
  void (*prepare_forward)(const FlashProblem&, int64_t head, void* workspace);
  void (*forward)(const FlashProblem&, int64_t item, void* workspace);
  void (*prepare_backward)(const FlashProblem&, int64_t head, void* workspace);
  void (*backward)(const FlashProblem&, int64_t item, void* workspace);
  void (*finish_backward)(const FlashProblem&, int64_t head, void* workspace);  // dQ from dq_sums
};

}  // namespace swap::cpu
