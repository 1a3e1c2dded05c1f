// Names for LibTorch's profilers of what its dispatcher does not see: kernels of our own. Costs nothing where nobody
// listens.
#pragma once

#include <ATen/core/ivalue.h>
#include <ATen/record_function.h>

#include <vector>

// For the rest of the scope; the tensors are what a listener sees as the operator's inputs.
#define SWAP_RECORD(name, ...) RECORD_FUNCTION(name, std::vector<c10::IValue>({__VA_ARGS__}))
