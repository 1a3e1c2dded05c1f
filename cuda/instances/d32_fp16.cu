// Written by scripts/cuda-gates.mjs --instances.
#include "instance.cuh"

template struct swap::cuda::Instance<32, swap::cuda::Fp16>;
