// The op without a kernel: exactly (fp64), and as the plain LibTorch version computes it in a 16-bit element type.
#pragma once

#include <cstdint>
#include <vector>

#include "params.h"

namespace reference {

using swap::cuda::Element;
using swap::cuda::Shape;

// Rounds to the element type and back.
float rounded(float x, Element element);
uint16_t to_bits(float x, Element element);
float from_bits(uint16_t bits, Element element);

// All contiguous [B,H,rows,d]; values are representable in the element type.
struct Inputs {
  Shape shape;
  std::vector<float> q, k, v;
  std::vector<float> k_ref;    // [B,H,L,d]; empty: no loss
  std::vector<float> weights;  // [L]
  std::vector<float> dout;     // [B,H,N,d]
  std::vector<float> dloss;    // [B]
};

struct Results {
  std::vector<double> out, loss, maps, dq, dk, dv;
};

Results exact(const Inputs& inputs);
Results eager(const Inputs& inputs);

// sum(out * dout) + sum(loss * dloss) in fp64, A_r made from `reference_q`.
double objective(const Inputs& inputs, const std::vector<float>& reference_q);

}  // namespace reference
