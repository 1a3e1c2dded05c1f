// Written by scripts/cuda-gates.mjs --instances.
#include "instance.cuh"

template struct swap::cuda::Instance<80, swap::cuda::Bf16>;
