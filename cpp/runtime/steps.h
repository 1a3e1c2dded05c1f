// The way back through a block of layers, noted while it goes forth: for LibTorch's graph the block is one node. A
// small model spends more time on nodes of single operators than on some of the operators.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/FunctionRef.h>

#include <functional>
#include <vector>

#include "runtime/cancel.h"
#include "runtime/fresh.h"

namespace swap {

// What comes along the way back.
struct Carried {
  at::Tensor x;                       // of what a layer gave; its step makes it that of what the layer took
  at::Tensor k_states, v_states;      // of the text states that cross-attention takes; undefined until it was passed
  std::vector<at::Tensor> losses;     // of the block's losses; undefined where nobody asks for it
  std::vector<at::Tensor> shortcuts;  // of residuals, past what they are added to
};

// The steps back of one block, noted in the order of the way forth. They are taken once, and what they keep is freed
// meanwhile. None may keep what the block itself gives: that would hold the block's node, and with it the step.
class Steps {
 public:
  // dy -> dx
  using Step = std::function<at::Tensor(const at::Tensor& dy)>;

  explicit Steps(bool live) : live(live) {}

  // Whether a gradient of what comes next is wanted: where nothing before it has one, a layer notes no step.
  bool live;

  // Of a layer with one input and one output.
  void then(Step step);
  void then_all(std::function<void(Carried&)> step) { steps_.push_back(std::move(step)); }

  // Where a residual's input is taken, and where the sum is made. `shortcut` is the way back along its short side,
  // where that is not the identity.
  void fork();
  void join(Step shortcut = {});

  // f(x) for less memory and more arithmetic (gradient checkpointing): f notes nothing now, and is taken again on the
  // way back. It must give the same numbers each time.
  at::Tensor again(const at::Tensor& x, std::function<at::Tensor(const at::Tensor&, Steps*)> f);

  // Takes all steps, the last one first.
  void back(Carried& carried);

 private:
  bool taken_ = false;
  std::vector<std::function<void(Carried&)>> steps_;
  std::vector<bool> forks_;  // whether they were live
};

inline bool noted(const Steps* steps) { return steps && steps->live; }

// f(x) by LibTorch's operators, whose graph is kept for the way back where there is one.
at::Tensor differentiate(const at::Tensor& x, Steps* steps, c10::function_ref<at::Tensor(const at::Tensor&)> f);

// Of a layer, which has no part in LibTorch's graph: a gradient of x that is wanted there would be lost.
inline void check_no_graph(const at::Tensor& x) {
  TORCH_CHECK(!in_graph(x), "a layer whose gradient is wanted, outside a block");
}

// Looks at the flag now, and on the way back.
void check(const Cancel& cancel, Steps* steps);

struct BlockResult {
  at::Tensor y;
  std::vector<at::Tensor> losses;  // [B] each, or undefined
};
using Block = std::function<BlockResult(const at::Tensor& x, Steps* steps)>;

// block(x), as one node of LibTorch's graph if a gradient is wanted, else without steps. The text states are those that
// the block reads. It can be differentiated once; what the block reads besides must be frozen and live until then.
BlockResult as_node(const Block& block, const at::Tensor& x, const at::Tensor& k_states = {},
                    const at::Tensor& v_states = {});

}  // namespace swap
