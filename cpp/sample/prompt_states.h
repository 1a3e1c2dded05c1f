// Text states of one prompt at any timestep, computed when first asked for. Every subject uses its own stage, so the
// states differ only where some subject's stage does: at most the sum of the subjects' stages in one generation.
#pragma once

#include <map>
#include <vector>

#include "models/diffusion_model.h"

namespace swap {

struct TextStates {
  at::Tensor k, v;  // [1, L, C] in the U-Net's dtype
};

class PromptStates {
 public:
  // All that is given must outlive it. Throws SWAP_SUBJECT_WIDTH.
  PromptStates(const DiffusionModel& model, const PromptTokens& prompt, const std::vector<SubjectVectors>& subjects,
               Cancel cancel);

  const TextStates& at(double timestep);

 private:
  at::Tensor encode(const std::vector<int64_t>& stages, std::vector<std::vector<float>> SubjectVectors::*which) const;

  const DiffusionModel& model_;
  const PromptTokens& prompt_;
  const std::vector<SubjectVectors>& subjects_;
  Cancel cancel_;
  at::Tensor embeddings_;  // [L, d]
  std::map<std::vector<int64_t>, TextStates> cache_;
};

}  // namespace swap
