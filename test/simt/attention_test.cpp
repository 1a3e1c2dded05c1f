// The op's cases: the same on the emulator and on a GPU.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <random>
#include <vector>

#include "case.h"
#include "cpp/attention_shapes.h"

using swap::cuda::Element;

namespace {

bool long_sweep() { return std::getenv("SWAP_SIMT_LONG") != nullptr; }

void check(const Spec& spec) {
  CAPTURE(spec.text());
  const auto inputs = make_inputs(spec);
  const Run result = run(spec, inputs);
  CHECK(result.guarded);
  CHECK(result.finite);
  CHECK(result.agrees);
  CHECK(worse_than_eager(spec, inputs, result) == "");
}

}  // namespace

TEST_CASE("the list of every make of the op, where there is a kernel for the head size") {
  int taken = 0;
  for (const auto& shape : attention_cases::kShapes) {
    const auto& sizes = swap::cuda::kHeadSizes;
    if (std::find(std::begin(sizes), std::end(sizes), shape.width) == std::end(sizes)) continue;
    ++taken;
    for (const Element element : {Element::bf16, Element::fp16})
      check({.head_size = int(shape.width),
             .rows = int(shape.queries),
             .tokens = int(shape.tokens),
             .batch = int(shape.batch),
             .heads = int(shape.heads),
             .element = element,
             .weights = shape.weight == 0 ? Weights::zeros
                        : shape.weighted  ? Weights::random
                                          : Weights::ones,
             .with_loss = shape.reference,
             .shared_reference = !shape.per_sample,
             .with_dout = shape.dout != 0,
             .sharpness = float(shape.gain),
             .dloss = float(shape.dloss)});
  }
  CHECK(taken > 15);
}

TEST_CASE("every head size and element type: at most twice the plain version's error") {
  for (const int d : swap::cuda::kHeadSizes)
    for (const Element element : {Element::bf16, Element::fp16}) {
      check({.head_size = d, .rows = 150, .element = element});
      check({.head_size = d, .rows = 70, .element = element, .with_loss = false});
    }
}

TEST_CASE("every head size: a block takes several tiles of rows, all of a head's or a part") {
  for (const int d : swap::cuda::kHeadSizes)
    for (const Element element : {Element::bf16, Element::fp16}) {
      check({.head_size = d, .rows = 200, .batch = 1, .heads = 1, .element = element, .blocks = 1});
      // Three tiles for two blocks: the first and the last, and the one in between.
      check({.head_size = d, .rows = 130, .batch = 1, .heads = 1, .element = element, .blocks = 2});
    }
}

TEST_CASE("any number of rows") {
  for (const int rows : {1, 15, 16, 17, 63, 64, 65, 129, 333}) check({.rows = rows});
  for (const int rows : {1, 17, 63}) check({.head_size = 160, .rows = rows, .heads = 1, .element = Element::fp16});
}

TEST_CASE("1 to 80 tokens") {
  for (const int tokens : {1, 2, 7, 8, 9, 40, 76, 77, 79, 80}) check({.rows = 33, .tokens = tokens, .heads = 1});
  for (const int tokens : {1, 2, 76, 80}) {
    check({.head_size = 80, .rows = 33, .tokens = tokens, .heads = 1, .element = Element::fp16});
    check({.head_size = 160, .rows = 33, .tokens = tokens, .heads = 1, .with_loss = false});
  }
}

TEST_CASE("one reference for each sample, tensors that are contiguous, weights of one") {
  for (const int d : {40, 80}) {
    check({.head_size = d, .batch = 3, .shared_reference = false});
    check({.head_size = d, .batch = 3, .weights = Weights::ones, .interleaved = false});
  }
}

TEST_CASE("logits so large that the softmax is one token") {
  for (const float sharpness : {30.f, 1000.f})
    for (const int d : {40, 160}) check({.head_size = d, .rows = 65, .sharpness = sharpness});
  for (const Element element : {Element::bf16, Element::fp16})
    for (const int d : {40, 160}) {
      // As large as the types let them be: in fp16 with more of either, dK itself is beyond 65504.
      const float sharpness = element == Element::bf16 ? 1e18f : 1e3f;
      const Spec spec{.head_size = d, .rows = 65, .element = element, .sharpness = sharpness, .dloss = 0.01f};
      CAPTURE(spec.text());
      CHECK(run(spec, make_inputs(spec)).finite);
    }
}

TEST_CASE("weights of zero: no loss, and no gradient of one") {
  for (const int d : {40, 160}) {
    Spec spec{.head_size = d, .weights = Weights::zeros};
    const auto inputs = make_inputs(spec);
    const Run with = run(spec, inputs);
    CHECK(with.results.loss == std::vector<double>(2, 0.0));
    spec.with_loss = false;
    auto plain = inputs;
    plain.k_ref.clear();
    const Run without = run(spec, plain);
    CHECK(with.results.dq == without.results.dq);
    CHECK(with.results.dk == without.results.dk);
    CHECK(with.results.dv == without.results.dv);
  }
}

TEST_CASE("a reference that is K itself: the loss is exactly zero") {
  for (const int d : {40, 160}) {
    const Spec spec{.head_size = d, .shared_reference = false, .reference_is_k = true};
    CHECK(run(spec, make_inputs(spec)).results.loss == std::vector<double>(2, 0.0));
  }
}

TEST_CASE("dloss of zero: the output's gradient alone; no dO: the loss's alone") {
  for (const int d : {40, 160}) {
    check({.head_size = d, .dloss = 0});
    check({.head_size = d, .with_dout = false});
    check({.head_size = d, .with_loss = false, .with_dout = false});
  }
}

TEST_CASE("the gradient agrees with finite differences, A_r frozen at the unperturbed Q") {
  const auto agrees = [](const Spec& spec) {
    CAPTURE(spec.text());
    const auto inputs = make_inputs(spec);
    const Run result = run(spec, inputs);
    std::mt19937_64 random(7);
    const auto along = [&](std::vector<float> reference::Inputs::*field, const std::vector<double>& gradient) {
      // A random direction u of +-1: the derivative along it, against the gradient's length (what u . gradient is on
      // average). Steps are small in fp64, though not in the element type: the objective takes any value.
      double length = 0, product = 0;
      auto up = inputs, down = inputs;
      constexpr float step = 1.f / 4096;
      double objective_step = 0;
      for (size_t i = 0; i < gradient.size(); ++i) {
        const float u = random() & 1 ? 1.f : -1.f;
        (up.*field)[i] += step * u;
        (down.*field)[i] -= step * u;
        product += u * gradient[i];
        length += gradient[i] * gradient[i];
      }
      objective_step = reference::objective(up, inputs.q) - reference::objective(down, inputs.q);
      CHECK(std::fabs(objective_step / (2 * step) - product) < 0.01 * std::sqrt(length));
    };
    for (int direction = 0; direction < 5; ++direction) {
      along(&reference::Inputs::q, result.results.dq);
      along(&reference::Inputs::k, result.results.dk);
      along(&reference::Inputs::v, result.results.dv);
    }
  };
  for (const Element element : {Element::bf16, Element::fp16})
    for (const int d : {40, 160}) agrees({.head_size = d, .rows = 19, .tokens = 23, .element = element});
}

TEST_CASE("the same bits every time") {
  for (const int d : {40, 160}) {
    const Spec spec{.head_size = d, .rows = 300, .batch = 1};
    const auto inputs = make_inputs(spec);
    CHECK(run(spec, inputs).hash == run(spec, inputs).hash);
  }
}

TEST_CASE("long: every number of tokens" * doctest::skip(!long_sweep())) {
  for (int tokens = 1; tokens <= 80; ++tokens) check({.rows = 70, .tokens = tokens, .batch = 1, .heads = 1});
}

TEST_CASE("long: all sizes together" * doctest::skip(!long_sweep())) {
  for (const int d : swap::cuda::kHeadSizes)
    for (const Element element : {Element::bf16, Element::fp16})
      for (const int rows : {1, 15, 16, 17, 64, 77, 256, 1000})
        for (const int tokens : {1, 2, 76, 77, 80})
          for (const bool with_loss : {true, false})
            check({.head_size = d,
                   .rows = rows,
                   .tokens = tokens,
                   .batch = 1,
                   .element = element,
                   .with_loss = with_loss,
                   .interleaved = rows % 2 == 0,
                   .seed = uint64_t(rows * 100 + tokens)});
  check({.head_size = 40, .rows = 4096, .batch = 2, .heads = 8});
}
