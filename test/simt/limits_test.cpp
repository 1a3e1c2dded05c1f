// What the host must get right before a launch: shared memory of every kernel, workspace, the params' contract.
#include <doctest/doctest.h>

#include <stdexcept>

#include "launch.h"
#include "traits.h"

using namespace swap::cuda;

TEST_CASE("every kernel's shared memory fits into a block of every arch") {
  for (const int arch : kArchs)
    for (const int d : kHeadSizes) {
      CAPTURE(arch);
      CAPTURE(d);
      for (const Form form : {Form::plain, Form::loss, Form::maps})
        CHECK(forward_shared_bytes(d, form) <= shared_limit(arch));
      for (const bool with_loss : {true, false}) CHECK(backward_shared_bytes(d, with_loss) <= shared_limit(arch));
    }
  CHECK(shared_limit(86) == 101376);
  CHECK(shared_limit(75) == 0);
}

TEST_CASE("rows of shared memory are an odd number of 16-byte chunks") {
  const auto odd = [](int stride) { return stride % 8 == 0 && stride / 8 % 2 == 1; };
  CHECK(odd(Head<32>::stride));
  CHECK(odd(Head<40>::stride));
  CHECK(odd(Head<64>::stride));
  CHECK(odd(Head<80>::stride));
  CHECK(odd(Head<160>::stride));
  CHECK(odd(kMapStride));
}

TEST_CASE("row blocks cover all rows, none is empty, and only the shape decides") {
  for (const int rows : {1, 64, 65, 1000, 4096, 16384})
    for (const int batch : {1, 2, 8, 64})
      for (const int heads : {1, 8, 20}) {
        const Shape shape{batch, heads, rows, 77, 64, Element::bf16, 1};
        const int tiles = ceil_div(rows, kRows);
        for (const int blocks : {forward_blocks(shape), backward_blocks(shape, 1), backward_blocks(shape, 2)}) {
          CHECK(blocks >= 1);
          CHECK(blocks <= tiles);
        }
      }
}

TEST_CASE("blocks take several tiles of rows where there are many heads, or where few blocks are asked for") {
  CHECK(forward_blocks({1, 8, 4096, 77, 40, Element::bf16, 1}) == 64);      // a block a tile
  CHECK(forward_blocks({2, 8, 4096, 77, 40, Element::bf16, 1}) == 32);      // two tiles each
  CHECK(backward_blocks({4, 32, 300, 77, 160, Element::bf16, 1}, 2) == 1);  // all five
  for (const int d : kHeadSizes) {
    const Shape usual{2, 2, 200, 77, d, Element::bf16, 1}, few{2, 2, 200, 77, d, Element::bf16, 1, 1};
    CHECK(forward_blocks(usual) == 4);
    CHECK(forward_blocks(few) == 1);
    CHECK(workspace_bytes(usual, Form::loss) == 4 * workspace_bytes(few, Form::loss));
    CHECK(workspace_bytes_backward(usual) == 4 * workspace_bytes_backward(few));
  }
}

TEST_CASE("the workspace of a step of Stable Diffusion 1.5 is a few megabytes") {
  const Shape shape{4, 8, 4096, 77, 40, Element::bf16, 1};
  CHECK(workspace_bytes(shape, Form::plain) == 0);
  CHECK(workspace_bytes(shape, Form::loss) < 16 << 10);
  CHECK(workspace_bytes_backward(shape) < 8 << 20);
}

TEST_CASE("what there is a kernel for") {
  CHECK(supported(40, 77));
  CHECK(supported(160, 80));
  CHECK(supported(32, 1));
  CHECK(!supported(40, 81));
  CHECK(!supported(40, 0));
  CHECK(!supported(48, 77));
}

TEST_CASE("params that break their contract are refused before a launch") {
  alignas(16) static unsigned char memory[64];
  const Rows good{memory, 8, 8, 8};
  ForwardParams params;
  params.shape = {1, 1, 1, 1, 40, Element::bf16, 1};
  params.q = params.k = params.v = good;
  params.out = {memory, 8, 8, 8};
  const auto refused = [](ForwardParams p, Form form = Form::plain) {
    CHECK_THROWS_AS(launch(p, form, nullptr), std::invalid_argument);
  };
  auto p = params;
  p.q.data = memory + 2;
  refused(p);
  p = params;
  p.k.row = 4;
  refused(p);
  p = params;
  p.v.data = nullptr;
  refused(p);
  p = params;
  p.shape.tokens = 81;
  refused(p);
  p = params;
  p.shape.rows = 0;
  refused(p);
  p = params;
  p.shape.head_size = 48;
  refused(p);
  p = params;
  p.shape.batch = 70000;
  refused(p);
  p = params;
  p.shape.blocks = -1;
  refused(p);
  refused(params, Form::loss);
  refused(params, Form::maps);
  BackwardParams backward;
  backward.shape = params.shape;
  CHECK_THROWS_AS(launch(backward, nullptr), std::invalid_argument);
}
