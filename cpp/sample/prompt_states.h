// Text states of one prompt at any timestep, computed when first asked for. Every subject uses its own stage, so the
// states differ only where some subject's stage does: at most the sum of the subjects' stages in one generation.
//
// Every text encoder encodes the prompt's chunks apart; the states of the chunks stand one behind the other, those of
// the encoders side by side.
#pragma once

#include <map>
#include <vector>

#include "models/diffusion_model.h"

namespace swap {

struct TextStates {
  at::Tensor k, v;    // [1, L, C] in the U-Net's dtype
  at::Tensor pooled;  // [1, P] fp32; undefined where the U-Net takes none
};

class PromptStates {
 public:
  // All that is given must outlive it. Throws SWAP_SUBJECT_WIDTH.
  PromptStates(const DiffusionModel& model, const PromptTokens& prompt, const std::vector<SubjectVectors>& subjects,
               Cancel cancel);

  const TextStates& at(double timestep);

 private:
  using Vectors = std::vector<std::vector<float>> SubjectVectors::*;

  // An encoder's token embeddings [chunks, positions, d] with the vectors of the subjects that `takes_part` names.
  template <typename Predicate>
  at::Tensor embeddings(size_t encoder, const std::vector<int64_t>& stages, Vectors which,
                        Predicate&& takes_part) const;
  at::Tensor encode(const std::vector<int64_t>& stages, Vectors which);  // [1, L, C]
  // An encoder's states [1, L, d] with the subjects, but of words that are none those with the class words.
  at::Tensor isolated(size_t encoder, const at::Tensor& states);
  at::Tensor pooled(const std::vector<int64_t>& stages) const;
  at::Tensor weighted(const at::Tensor& states) const;
  TextStates zeros() const;

  const DiffusionModel& model_;
  const PromptTokens& prompt_;
  const std::vector<SubjectVectors>& subjects_;
  Cancel cancel_;
  std::vector<at::Tensor> ids_;           // by encoder, [chunks, positions]
  std::vector<at::Tensor> embeddings_;    // by encoder, [L, d]
  std::vector<at::Tensor> class_states_;  // by encoder, [1, L, d]; empty until they are asked for
  bool pooled_varies_ = false;            // some subject stands in the pooled prompt too
  at::Tensor pooled_;                     // of the class words; undefined until it is asked for
  std::map<std::vector<int64_t>, TextStates> cache_;
};

}  // namespace swap
