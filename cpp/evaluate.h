// Direct access to the model's parts, for tests against a reference and for the benchmarks.
#pragma once

#include "engine.h"
#include "models/diffusion_model.h"

namespace swap {

void evaluate(const DiffusionModel& model, const EvaluateRequest& request, const Hooks& hooks, EvaluateResult& result);

}  // namespace swap
