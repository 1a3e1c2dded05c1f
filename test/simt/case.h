// One run of the op on the device: operands from a seed, launch, results in fp64, guards around what is written.
#pragma once

#include <string>

#include "launch.h"
#include "reference.h"

enum class Weights { ones, random, zeros };

struct Spec {
  int head_size = 40, rows = 70, tokens = 77, batch = 2, heads = 2;
  swap::cuda::Element element = swap::cuda::Element::bf16;
  Weights weights = Weights::random;
  bool with_loss = true;
  bool shared_reference = true;  // one K_r for the whole batch
  bool reference_is_k = false;
  bool interleaved = true;  // [B,rows,H,d], as a linear layer leaves it; else [B,H,rows,d]
  bool with_dout = true;
  float sharpness = 1;  // of the logits: their standard deviation, about
  float dloss = 1;      // in units that make both gradients about equal
  int blocks = 0;       // of the whole grid; 0: the kernels' own choice. 1: a block takes all rows of a head
  uint64_t seed = 1;
  std::string text() const;
};

reference::Inputs make_inputs(const Spec& spec);

struct Run {
  reference::Results results;
  uint64_t hash = 0;    // of every bit that was written
  bool guarded = true;  // nothing was written beside the outputs
  bool finite = true;   // no NaN, no infinity, nothing left out
  bool agrees = true;   // O beside the maps has the bits of O alone, or of O beside the loss
};

// Forward (with the loss where there is one, else plain), the maps, and backward.
Run run(const Spec& spec, const reference::Inputs& inputs);

// The error relative to the whole tensor, root mean square and largest. Infinite where there is a NaN.
struct Error {
  double rms = 0, max = 0;
};
Error error(const std::vector<double>& got, const std::vector<double>& exact);

// What is further from fp64 than twice the plain version, as text; empty where nothing is.
std::string worse_than_eager(const Spec& spec, const reference::Inputs& inputs, const Run& run);
