// A prompt, seeds and subjects in; pictures out.
#pragma once

#include "engine.h"
#include "models/diffusion_model.h"

namespace swap {

// Throws coded errors for requests that cannot be met, SWAP_NUMERIC_NAN when the latents stop being numbers.
void generate(const DiffusionModel& model, const GenerateRequest& request, const Hooks& hooks, GenerateResult& result);

}  // namespace swap
