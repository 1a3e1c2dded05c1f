// Learns one subject from one photo on a frozen base model.
//
//   L = L_rec + lambda * L_att
// L_rec is the base model's own objective; L_att keeps every token's attention map where the reference prompt (with
// the class word) has it. See docs/method.md.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "engine.h"
#include "models/diffusion_model.h"
#include "personalize/adam.h"
#include "personalize/subject_module.h"

namespace swap {

// What one training step draws; everything a step does follows from it.
struct TrainingDraw {
  std::vector<int64_t> timesteps, templates;  // [B]
  at::Tensor latents, noise;                  // [B, c, h, w] fp32; latents are scaled

  TrainingDraw of(Share share) const;  // some of its samples
};

struct TrainingLoss {
  at::Tensor total, reconstruction, attention;  // scalars, fp32; attention is not weighted, and 0 when it is off
};

// What a draw says about the parameters.
struct Slope {
  at::Tensor losses;    // [3], fp32: total, reconstruction, attention
  at::Tensor gradient;  // [n], of the total for all parameters together; Trainer::part() takes one's out
};

class Trainer {
 public:
  // Encodes the photo and the reference prompts, once. Throws coded errors for requests that cannot be met.
  // `model` and `request` must outlive it.
  Trainer(const DiffusionModel& model, const LearnRequest& request, Cancel cancel);

  TrainingDraw draw(int64_t step) const;
  // A small model's batch is computed in shares, one a thread; that changes sums by rounding. `then` and `meanwhile`
  // are called as Shares::run() does.
  Slope slope(
      const TrainingDraw& draw, c10::function_ref<void(const Slope&)> then = [](const Slope&) {},
      c10::function_ref<void()> meanwhile = [] {}) const;

  // One optimiser step; returns the losses and the stage of the first sample.
  Progress step();

  int64_t done() const { return done_; }
  // True while what is learnt, and what the next step starts from, is made of numbers.
  bool sound() const;
  TrainerState state() const;
  void restore(const TrainerState& state);
  SubjectVectors subject() const;
  const std::vector<std::pair<std::string, at::Tensor>>& parameters() const { return parameters_; }
  // What a gradient [n] says of the parameter i.
  at::Tensor part(const at::Tensor& gradient, size_t i) const { return adam_.part(gradient, i); }

 private:
  const DiffusionModel& model_;
  const LearnRequest& request_;
  Cancel cancel_;
  // A reference prompt: the class word in one of the templates.
  struct Reference {
    std::vector<at::Tensor> embeddings;  // by text encoder, [L, d]
    ReferenceKeys keys;                  // empty when the loss is off
    at::Tensor pooled;                   // [1, P]; undefined where the U-Net takes none
  };

  at::Tensor states(const TrainingDraw& draw) const;
  TrainingLoss loss(const TrainingDraw& draw) const;

  at::Tensor latent_mean_, latent_std_;  // of the photo, [1, c, h, w], scaled
  at::Tensor mask_;                      // [h, w] or undefined
  at::Tensor token_weights_;             // [L] or undefined
  at::Tensor time_ids_;                  // [1, 6] or undefined
  std::vector<Reference> references_;    // by template
  std::vector<SubjectModule> modules_;   // one a text encoder
  // Of all modules; those of the second begin with "1.", and so on.
  std::vector<std::pair<std::string, at::Tensor>> parameters_;
  Adam adam_;
  int64_t done_ = 0;
  std::optional<std::pair<int64_t, TrainingDraw>> ahead_;  // a step and what it draws, where a thread had time for it
};

// The whole job: steps, progress, yields, checkpoints. On cancellation the state so far is in `result`.
void learn(const DiffusionModel& model, const LearnRequest& request, const Hooks& hooks, LearnResult& result);

}  // namespace swap
