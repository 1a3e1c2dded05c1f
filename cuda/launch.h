// The host's side of the kernels: launch(params, stream), and what has to be known before.
#pragma once

#include <initializer_list>

#include "params.h"

namespace swap::cuda {

inline constexpr int kMaxTokens = 80;
// What is not taken: more heads of all samples than a grid can have, more rows than an index.
inline constexpr int64_t kMaxHeads = 65535, kMaxRows = int64_t(1) << 30;
inline constexpr int kHeadSizes[] = {32, 40, 64, 80, 160};

// True where there is a kernel; everything else goes to the plain version.
constexpr bool supported(int64_t head_size, int64_t tokens) {
  for (const int d : kHeadSizes)
    if (d == head_size) return tokens >= 1 && tokens <= kMaxTokens;
  return false;
}

// Bytes of device memory that a launch needs beside its operands: partial sums of fp32. Nothing of size N x L.
size_t workspace_bytes(const Shape& shape, Form form);
size_t workspace_bytes_backward(const Shape& shape);

// Enqueue on the stream and return. Results do not depend on the device's size or on what ran before: the same bits
// every time. Throws std::invalid_argument where the params break their contract, std::runtime_error where CUDA
// refuses the launch.
void launch(const ForwardParams& params, Form form, Stream stream);
void launch(const BackwardParams& params, Stream stream);

// True where the current device runs the kernels: false on an arch that they were not built for.
bool runs_here();

// Dynamic shared memory of one block, bytes.
size_t forward_shared_bytes(int head_size, Form form);
size_t backward_shared_bytes(int head_size, bool with_loss);

// What one block may have at most on an arch, bytes: 80 for sm_80 and so on. 0 for archs that are not built for.
size_t shared_limit(int arch);
inline constexpr int kArchs[] = {80, 86, 89, 90, 100, 120};

}  // namespace swap::cuda
