// Written by scripts/cuda-gates.mjs --instances.
#include "instance.cuh"

template struct swap::cuda::Instance<160, swap::cuda::Fp16>;
