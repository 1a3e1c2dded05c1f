#include "sample/prompt_states.h"

#include <algorithm>

#include "runtime/tensors.h"

namespace swap {

PromptStates::PromptStates(const DiffusionModel& model, const PromptTokens& prompt,
                           const std::vector<SubjectVectors>& subjects, Cancel cancel)
    : model_(model), prompt_(prompt), subjects_(subjects), cancel_(cancel) {
  const size_t encoders = model.text.size();
  if (prompt.ids.size() != encoders) {
    throw Error("SWAP_ENGINE_ARGUMENT", "a prompt must have ids for each of " + std::to_string(encoders) +
                                            " text encoders, but has " + std::to_string(prompt.ids.size()));
  }
  const auto length = static_cast<int64_t>(prompt.ids[0].size());
  for (size_t e = 0; e < encoders; ++e) {
    const int64_t positions = model.text[e].spec().positions;
    const auto ids = model.ids(prompt.ids[e]);
    if (length < 1 || ids.size(0) != length || (length > positions && length % positions != 0)) {
      throw Error("SWAP_ENGINE_ARGUMENT",
                  "a prompt must have as many ids in all encoders, in chunks of " + std::to_string(positions));
    }
    ids_.push_back(ids.view({-1, std::min(length, positions)}));
    embeddings_.push_back(model.text[e].embed(ids));
  }
  if (!prompt.weights.empty() && static_cast<int64_t>(prompt.weights.size()) != length) {
    throw Error("SWAP_ENGINE_ARGUMENT", "a prompt must have as many weights as positions, or none");
  }
  for (const auto& slot : prompt.slots) {
    const auto& subject = subjects.at(slot.subject);
    if (subject.stages < 1 || subject.k.size() != encoders || subject.v.size() != encoders) {
      throw Error("SWAP_SUBJECT_WIDTH",
                  "a subject has vectors for " + std::to_string(subject.k.size()) + " text encoders, this model has " +
                      std::to_string(encoders),
                  "the subject was learnt on another base model: learn it again on this one");
    }
    for (size_t e = 0; e < encoders; ++e) {
      const int64_t width = embeddings_[e].size(1);
      const auto values = static_cast<size_t>(subject.stages * subject.tokens * width);
      if (subject.k[e].size() == values && subject.v[e].size() == values) continue;
      throw Error("SWAP_SUBJECT_WIDTH", "a subject's vectors do not have this model's width " + std::to_string(width),
                  "the subject was learnt on another base model: learn it again on this one");
    }
    if (slot.position < 1 || slot.position + subject.tokens > length) {
      throw Error("SWAP_ENGINE_ARGUMENT", "a subject's slot lies outside the prompt");
    }
    pooled_varies_ = pooled_varies_ || subject.in_pooled;
  }
}

const TextStates& PromptStates::at(double timestep) {
  std::vector<int64_t> stages;
  for (const auto& slot : prompt_.slots) stages.push_back(model_.stage(timestep, subjects_[slot.subject].stages));
  const auto found = cache_.find(stages);
  if (found != cache_.end()) return found->second;
  TextStates states;
  if (prompt_.zero) {
    states = zeros();
  } else {
    states.k = encode(stages, &SubjectVectors::k);
    states.v = prompt_.slots.empty() ? states.k : encode(stages, &SubjectVectors::v);
    if (pooled_varies_ || !pooled_.defined()) pooled_ = pooled(stages);
    states.pooled = pooled_;
  }
  return cache_.emplace(std::move(stages), std::move(states)).first->second;
}

template <typename Predicate>
at::Tensor PromptStates::embeddings(size_t encoder, const std::vector<int64_t>& stages, Vectors which,
                                    Predicate&& takes_part) const {
  auto x = embeddings_[encoder];
  for (size_t i = 0; i < prompt_.slots.size(); ++i) {
    const auto& subject = subjects_[prompt_.slots[i].subject];
    if (!takes_part(subject)) continue;
    const auto values = at::tensor((subject.*which)[encoder]).view({subject.stages, subject.tokens, x.size(1)});
    x = DiffusionModel::insert(x, prompt_.slots[i].position, to_device(values[stages[i]], x.device()));
  }
  return x.view({ids_[encoder].size(0), ids_[encoder].size(1), x.size(1)});
}

at::Tensor PromptStates::isolated(size_t encoder, const at::Tensor& states) {
  if (class_states_.empty()) {
    for (size_t e = 0; e < model_.text.size(); ++e) {
      const auto x = embeddings(e, {}, &SubjectVectors::k, [](const SubjectVectors&) { return false; });
      class_states_.push_back(model_.text[e].encode(x, cancel_).flatten(0, 1).unsqueeze(0));
    }
  }
  // The end of a chunk's text and the padding behind it sum up the whole chunk: they stay with the subjects.
  const auto& ids = ids_[encoder];
  const auto ends = model_.text[encoder].ends(ids).unsqueeze(1);
  const auto own = at::arange(ids.size(1), ids.options()).ge(ends).view({1, -1, 1});
  for (const auto& slot : prompt_.slots) own.narrow(1, slot.position, subjects_[slot.subject].tokens).fill_(true);
  return at::where(own, states, class_states_[encoder]);
}

at::Tensor PromptStates::encode(const std::vector<int64_t>& stages, Vectors which) {
  std::vector<at::Tensor> parts;
  for (size_t e = 0; e < model_.text.size(); ++e) {
    const auto x = embeddings(e, stages, which, [](const SubjectVectors&) { return true; });
    const auto states = model_.text[e].encode(x, cancel_).flatten(0, 1).unsqueeze(0);
    parts.push_back(prompt_.isolate && !prompt_.slots.empty() ? isolated(e, states) : states);
  }
  return weighted(parts.size() == 1 ? parts[0] : at::cat(parts, 2)).to(model_.unet.dtype());
}

at::Tensor PromptStates::pooled(const std::vector<int64_t>& stages) const {
  const int64_t e = model_.pooling_encoder();
  if (e < 0) return {};
  const auto x = embeddings(e, stages, &SubjectVectors::k, [](const SubjectVectors& s) { return s.in_pooled; });
  const auto first = model_.text[e].encode_whole(x.narrow(0, 0, 1), cancel_);
  return model_.text[e].pooled(first.last, ids_[e].narrow(0, 0, 1));
}

at::Tensor PromptStates::weighted(const at::Tensor& states) const {
  if (prompt_.weights.empty()) return states;
  const auto weights = to_device(at::tensor(prompt_.weights), states.device()).view({1, -1, 1});
  const auto scaled = states * weights;
  return scaled * (states.mean() / scaled.mean());
}

TextStates PromptStates::zeros() const {
  TextStates states;
  const auto options = embeddings_[0].options();
  states.k =
      at::zeros({1, embeddings_[0].size(0), model_.spec.unet.cross_attention_dim}, options.dtype(model_.unet.dtype()));
  states.v = states.k;
  if (model_.spec.unet.pooled_width > 0) states.pooled = at::zeros({1, model_.spec.unet.pooled_width}, options);
  return states;
}

}  // namespace swap
