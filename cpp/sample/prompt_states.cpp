#include "sample/prompt_states.h"

#include <algorithm>

namespace swap {

PromptStates::PromptStates(const DiffusionModel& model, const PromptTokens& prompt,
                           const std::vector<SubjectVectors>& subjects, Cancel cancel)
    : model_(model), prompt_(prompt), subjects_(subjects), cancel_(cancel) {
  embeddings_ = model.text[0].embed(model.ids(prompt.ids.at(0)));
  const int64_t width = embeddings_.size(1), length = embeddings_.size(0);
  const int64_t positions = model.text[0].spec().positions;
  if (length < 1 || (length > positions && length % positions != 0)) {
    throw Error("SWAP_ENGINE_ARGUMENT", "a prompt must have its ids in chunks of " + std::to_string(positions));
  }
  if (!prompt.weights.empty() && static_cast<int64_t>(prompt.weights.size()) != length) {
    throw Error("SWAP_ENGINE_ARGUMENT", "a prompt must have as many weights as positions, or none");
  }
  for (const auto& slot : prompt.slots) {
    const auto& subject = subjects.at(slot.subject);
    const auto values = static_cast<size_t>(subject.stages * subject.tokens * width);
    if (subject.stages < 1 || subject.k.size() < 1 || subject.v.size() < 1 || subject.k[0].size() != values ||
        subject.v[0].size() != values) {
      throw Error("SWAP_SUBJECT_WIDTH", "a subject's vectors do not have this model's width " + std::to_string(width),
                  "the subject was learnt on another base model: learn it again on this one");
    }
    if (slot.position < 1 || slot.position + subject.tokens > length) {
      throw Error("SWAP_ENGINE_ARGUMENT", "a subject's slot lies outside the prompt");
    }
  }
}

const TextStates& PromptStates::at(double timestep) {
  std::vector<int64_t> stages;
  for (const auto& slot : prompt_.slots) stages.push_back(model_.stage(timestep, subjects_[slot.subject].stages));
  const auto found = cache_.find(stages);
  if (found != cache_.end()) return found->second;
  TextStates states;
  states.k = encode(stages, &SubjectVectors::k);
  states.v = prompt_.slots.empty() ? states.k : encode(stages, &SubjectVectors::v);
  return cache_.emplace(std::move(stages), std::move(states)).first->second;
}

at::Tensor PromptStates::encode(const std::vector<int64_t>& stages,
                                std::vector<std::vector<float>> SubjectVectors::*which) const {
  auto x = embeddings_;
  const int64_t width = x.size(1);
  for (size_t i = 0; i < prompt_.slots.size(); ++i) {
    const auto& subject = subjects_[prompt_.slots[i].subject];
    const auto values = at::tensor((subject.*which)[0]).view({subject.stages, subject.tokens, width});
    x = DiffusionModel::insert(x, prompt_.slots[i].position, values[stages[i]].to(x.device()));
  }
  // Chunks are encoded apart, and their states stand one behind the other.
  const int64_t length = std::min(x.size(0), model_.text[0].spec().positions);
  x = model_.text[0].encode(x.view({-1, length, width}), cancel_).flatten(0, 1).unsqueeze(0);
  if (!prompt_.weights.empty()) {
    const auto scaled = x * at::tensor(prompt_.weights).to(x.device()).view({1, -1, 1});
    x = scaled * (x.mean() / scaled.mean());
  }
  return x.to(model_.unet.dtype());
}

}  // namespace swap
