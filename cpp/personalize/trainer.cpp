#include "personalize/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "runtime/device.h"
#include "runtime/random.h"
#include "runtime/tensors.h"

namespace swap {
namespace {

std::vector<at::Tensor> leaves(const std::vector<std::pair<std::string, at::Tensor>>& parameters) {
  std::vector<at::Tensor> result;
  for (const auto& [name, value] : parameters) result.push_back(value);
  return result;
}

// The class word's embeddings [n, d] in one text encoder, as they stand in the first template.
at::Tensor class_embeddings(const DiffusionModel& model, const LearnRequest& request, size_t encoder) {
  const auto& first = request.templates[0];
  const auto embedded = model.text[encoder].embed(model.ids(first.ids[encoder]));
  if (first.position < 1 || first.position + request.class_tokens > embedded.size(0)) {
    throw Error("SWAP_ENGINE_ARGUMENT", "templates[0].position: the class word lies outside the prompt");
  }
  return embedded.narrow(0, first.position, request.class_tokens).clone();
}

// What a step keeps for its backward pass: about 450 numbers for each latent pixel and channel of the finest level
// (measured on SD 1.5, 2.1 and the embedded model). Better a sentence than the kernel's killer of processes.
void check_memory(const DiffusionModel& model, const LearnRequest& request) {
  if (model.compute.device.is_meta()) return;
  const int64_t factor = model.vae.factor();
  const int64_t pixels = (request.image.width / factor) * (request.image.height / factor);
  const int64_t needed = request.batch * pixels * model.spec.unet.levels[0].channels * 450 *
                         static_cast<int64_t>(c10::elementSize(model.compute.dtype));
  const int64_t available = available_memory(model.compute.device);
  if (needed <= available) return;
  throw Error("SWAP_MEMORY_EXHAUSTED",
              "a training step with batch " + std::to_string(request.batch) + " needs about " +
                  std::to_string(needed >> 20) + " MB, and " + std::to_string(available >> 20) + " MB are free",
              "ask for a smaller batch");
}

std::vector<SubjectModule> make_modules(const DiffusionModel& model, const LearnRequest& request) {
  if (request.templates.empty()) throw Error("SWAP_ENGINE_ARGUMENT", "templates: at least one is needed");
  for (const auto& t : request.templates) {
    if (t.ids.size() != model.text.size()) {
      throw Error("SWAP_ENGINE_ARGUMENT",
                  "templates: ids for each of " + std::to_string(model.text.size()) + " text encoders are needed");
    }
  }
  const SubjectShape shape{request.stages, request.class_tokens, request.split, request.parametrization == "direct"};
  std::vector<SubjectModule> modules;
  for (size_t e = 0; e < model.text.size(); ++e) {
    // Counters -1, -2, ...: streams that no step draws from.
    modules.emplace_back(shape, class_embeddings(model, request, e),
                         model.text[e].token_embeddings().to(at::kFloat).std(),
                         seeded(static_cast<uint64_t>(request.seed), ~uint64_t(e)));
  }
  return modules;
}

std::vector<std::pair<std::string, at::Tensor>> all_parameters(const std::vector<SubjectModule>& modules) {
  std::vector<std::pair<std::string, at::Tensor>> all;
  for (size_t e = 0; e < modules.size(); ++e) {
    const auto prefix = e == 0 ? std::string() : std::to_string(e) + ".";
    for (const auto& [name, value] : modules[e].parameters()) all.emplace_back(prefix + name, value);
  }
  return all;
}

}  // namespace

Trainer::Trainer(const DiffusionModel& model, const LearnRequest& request, Cancel cancel)
    : model_(model),
      request_(request),
      cancel_(cancel),
      time_ids_(model.time_ids(request.time_ids, "timeIds")),
      modules_(make_modules(model, request)),
      parameters_(all_parameters(modules_)),
      adam_(leaves(parameters_)) {
  c10::NoGradGuard no_grad;
  const auto device = model.compute.device;
  const int64_t factor = model.vae.factor();
  const auto& image = request_.image;
  if (image.width % factor || image.height % factor || image.width < factor || image.height < factor ||
      static_cast<int64_t>(image.data.size()) != image.width * image.height * 3) {
    throw Error("SWAP_ENGINE_ARGUMENT", "image: " + std::to_string(image.width) + " x " + std::to_string(image.height) +
                                            " is not a picture whose sides are multiples of " + std::to_string(factor));
  }
  check_memory(model, request);
  const auto [mean, deviation] = model.vae.encode(to_tensor(image).to(device), cancel);
  latent_mean_ = (mean - model.spec.vae.shift_factor) * model.spec.vae.scaling_factor;
  latent_std_ = deviation * model.spec.vae.scaling_factor;
  if (!request_.mask.empty()) {
    if (static_cast<int64_t>(request_.mask.size()) != mean.size(2) * mean.size(3)) {
      throw Error("SWAP_ENGINE_ARGUMENT", "mask: " + std::to_string(request_.mask.size()) +
                                              " values, but the latents have " +
                                              std::to_string(mean.size(2) * mean.size(3)) + " pixels");
    }
    mask_ = at::tensor(request_.mask).view({mean.size(2), mean.size(3)}).to(device);
  }
  if (!request_.token_weights.empty()) token_weights_ = at::tensor(request_.token_weights).to(device);

  const auto& levels = model.unet.layer_levels();
  const auto counts = [&](int64_t level) { return std::count(levels.begin(), levels.end(), level); };
  for (const int64_t level : request_.attention_levels) {
    if (counts(level) == 0) {
      throw Error("SWAP_ENGINE_ARGUMENT",
                  "attentionLevels: the model has no cross-attention at level " + std::to_string(level));
    }
  }
  for (const auto& t : request_.templates) {
    cancel.check();
    Reference reference;
    std::vector<at::Tensor> states;
    for (size_t e = 0; e < model.text.size(); ++e) {
      const auto ids = model.ids(t.ids[e]);
      reference.embeddings.push_back(model.text[e].embed(ids));
      const bool pools = static_cast<int64_t>(e) == model.pooling_encoder();
      if (!pools && request_.attention_weight <= 0) continue;
      const auto encoded = model.text[e].encode_whole(reference.embeddings[e].unsqueeze(0), cancel);
      states.push_back(encoded.states);
      if (pools) reference.pooled = model.text[e].pooled(encoded.last, ids.unsqueeze(0));
    }
    if (request_.attention_weight > 0) {
      const auto all = states.size() == 1 ? states[0] : at::cat(states, 2);
      reference.keys = model.unet.cross_keys(all.to(model.unet.dtype()), request_.attention_levels);
    }
    references_.push_back(std::move(reference));
  }
  if (request_.resume) restore(*request_.resume);
}

TrainingDraw TrainingDraw::of(Share share) const {
  const auto some = [&](const std::vector<int64_t>& all) {
    return std::vector<int64_t>(all.begin() + share.first, all.begin() + share.first + share.count);
  };
  return {some(timesteps), some(templates), share.of(latents), share.of(noise)};
}

TrainingDraw Trainer::draw(int64_t step) const {
  const int64_t B = request_.batch, T = model_.spec.noise.train_timesteps;
  auto generator = seeded(static_cast<uint64_t>(request_.seed), static_cast<uint64_t>(step));
  const auto integers = [&](int64_t high) { return at::randint(high, {B}, generator, at::kLong); };
  TrainingDraw draw;
  // Stratified: a batch covers the timesteps evenly. With B = 1 that is a uniform draw.
  const auto t = at::floor_divide(at::arange(B, at::kLong) * T + integers(T), B);
  const auto j = integers(static_cast<int64_t>(request_.templates.size()));
  draw.timesteps.assign(t.data_ptr<int64_t>(), t.data_ptr<int64_t>() + B);
  draw.templates.assign(j.data_ptr<int64_t>(), j.data_ptr<int64_t>() + B);
  const std::vector<int64_t> shape{B, latent_mean_.size(1), latent_mean_.size(2), latent_mean_.size(3)};
  const auto device = model_.compute.device;
  draw.latents = latent_mean_ + latent_std_ * to_device(at::randn(shape, generator), device);
  draw.noise = to_device(at::randn(shape, generator), device);
  return draw;
}

// The text states of the stages that were drawn, [2B or B, L, C]: K's, and behind them V's unless they share vectors.
at::Tensor Trainer::states(const TrainingDraw& draw) const {
  std::vector<at::Tensor> parts;
  for (size_t e = 0; e < modules_.size(); ++e) {
    const auto [k, v] = modules_[e].vectors();
    std::vector<at::Tensor> rows;
    for (const auto& vectors : {k, v}) {
      for (size_t b = 0; b < draw.timesteps.size(); ++b) {
        const int64_t j = draw.templates[b];
        rows.push_back(DiffusionModel::insert(references_[j].embeddings[e], request_.templates[j].position,
                                              vectors[model_.stage(draw.timesteps[b], request_.stages)]));
      }
      if (!request_.split) break;
    }
    parts.push_back(model_.text[e].encode(at::stack(rows), cancel_));
  }
  return (parts.size() == 1 ? parts[0] : at::cat(parts, 2)).to(model_.unet.dtype());
}

TrainingLoss Trainer::loss(const TrainingDraw& draw) const {
  const int64_t B = static_cast<int64_t>(draw.timesteps.size());
  const auto device = model_.compute.device;
  const auto timesteps = at::tensor(draw.timesteps, at::TensorOptions().dtype(at::kLong));
  const auto alpha = to_device(model_.alphas_cumprod.index_select(0, timesteps), device).view({B, 1, 1, 1});
  const auto signal = alpha.sqrt(), spread = (1 - alpha).sqrt();
  const auto noisy = signal * draw.latents + spread * draw.noise;
  const auto& prediction = model_.spec.noise.prediction_type;
  const auto target = prediction == "v_prediction" ? signal * draw.noise - spread * draw.latents
                      : prediction == "sample"     ? draw.latents
                                                   : draw.noise;

  const auto states = this->states(draw);
  AttentionContext context;
  context.cancel = cancel_;
  context.k_states = states.narrow(0, 0, B);
  context.v_states = request_.split ? states.narrow(0, B, B) : context.k_states;
  context.token_weights = token_weights_;
  Conditions conditions;
  if (time_ids_.defined()) {
    std::vector<at::Tensor> pooled;
    for (const int64_t j : draw.templates) pooled.push_back(references_[j].pooled);
    conditions.pooled = at::cat(pooled, 0);
    conditions.time_ids = time_ids_.expand({B, -1});
  }
  if (request_.attention_weight > 0) {
    for (const int64_t j : draw.templates) context.reference.push_back(&references_[j].keys);
  }
  const auto output = model_.unet(noisy, to_device(timesteps, device), context, conditions);

  TrainingLoss result;
  auto squared = (output - target).square();
  if (mask_.defined()) squared = squared * mask_;
  result.reconstruction = squared.mean();
  std::vector<at::Tensor> layers;
  for (const auto& layer : context.losses) {
    if (layer.defined()) layers.push_back(layer);
  }
  // Keeps lambda's meaning at other sizes: the factor is 1 for SD 1.x at 512 px.
  const double pixels = static_cast<double>(noisy.size(2) * noisy.size(3));
  result.attention = layers.empty() ? at::zeros({}, output.options()) : at::stack(layers).mean() * (4096.0 / pixels);
  result.total = result.reconstruction + request_.attention_weight * result.attention;
  return result;
}

Slope Trainer::slope(const TrainingDraw& draw, c10::function_ref<void(const Slope&)> then,
                     c10::function_ref<void()> meanwhile) const {
  const auto rows = static_cast<int64_t>(draw.timesteps.size());
  const auto division = model_.shares(rows, draw.latents.size(2), draw.latents.size(3));
  std::vector<Slope> shares(division.count());
  const auto compute = [&](int64_t index, Share share) {
    const auto loss = this->loss(draw.of(share));
    // Losses are means over the samples: a share counts for as many as it has.
    const double part = static_cast<double>(share.count) / static_cast<double>(rows);
    shares[index] = {at::stack({loss.total, loss.reconstruction, loss.attention}).detach() * part,
                     adam_.together(gradients(loss.total * part, leaves(parameters_)))};
  };
  const auto end = [&] {
    auto& sum = shares[0];
    for (size_t i = 1; i < shares.size(); ++i) {
      sum.losses += shares[i].losses;
      sum.gradient += shares[i].gradient;
    }
    then(sum);
  };
  division.run(compute, end, meanwhile);
  return shares[0];
}

Progress Trainer::step() {
  const auto draw = ahead_ && ahead_->first == done_ ? std::move(ahead_->second) : this->draw(done_);
  ahead_.reset();
  Progress progress;
  progress.phase = "step";
  progress.stage = model_.stage(draw.timesteps[0], request_.stages);
  const auto learn = [&](const Slope& slope) {
    const auto values = to_host(slope.losses);
    progress.loss = values[0].item<double>();
    progress.reconstruction = values[1].item<double>();
    progress.attention = values[2].item<double>();
    if (!std::isfinite(progress.loss)) {
      throw Error(
          "SWAP_NUMERIC_NAN", "the loss is not a number at step " + std::to_string(done_ + 1),
          "lower learningRate, or use dtype 'float32'; if the first step fails, the model's weights are broken");
    }
    cancel_.check();  // the last look: from here on the step is done as a whole
    adam_.update(slope.gradient, request_.learning_rate, done_ + 1);
    ++done_;
    if (!sound()) {
      throw Error("SWAP_NUMERIC_NAN", "what is learnt is not made of numbers after step " + std::to_string(done_),
                  "lower learningRate, or use dtype 'float32'; a resume file that it went on from may be broken");
    }
  };
  slope(draw, learn, [this, next = done_ + 1] {
    if (next < request_.steps) ahead_.emplace(next, this->draw(next));
  });
  progress.done = done_;
  progress.total = request_.steps;
  return progress;
}

bool Trainer::sound() const { return !has_nan({adam_.values, adam_.second}); }

TrainerState Trainer::state() const {
  TrainerState state;
  state.step = done_;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto& name = parameters_[i].first;
    state.tensors.push_back(to_named("parameter." + name, parameters_[i].second));
    state.tensors.push_back(to_named("first_moment." + name, adam_.part(adam_.first, i)));
    state.tensors.push_back(to_named("second_moment." + name, adam_.part(adam_.second, i)));
  }
  return state;
}

void Trainer::restore(const TrainerState& state) {
  c10::NoGradGuard no_grad;
  const auto copy = [&](const std::string& name, const at::Tensor& target) {
    const auto found =
        std::find_if(state.tensors.begin(), state.tensors.end(), [&](const auto& t) { return t.name == name; });
    if (found == state.tensors.end() || at::IntArrayRef(found->shape) != target.sizes()) {
      throw Error("SWAP_RESUME_MISMATCH", "the resume file has no tensor '" + name + "' of this subject's shape",
                  "it was made with other stages, conditioning, class word or model");
    }
    target.copy_(to_tensor(*found));
  };
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto& name = parameters_[i].first;
    copy("parameter." + name, parameters_[i].second);
    copy("first_moment." + name, adam_.part(adam_.first, i));
    copy("second_moment." + name, adam_.part(adam_.second, i));
  }
  done_ = state.step;
}

SubjectVectors Trainer::subject() const {
  c10::NoGradGuard no_grad;
  SubjectVectors subject;
  subject.stages = request_.stages;
  subject.tokens = request_.class_tokens;
  for (const auto& module : modules_) {
    const auto [k, v] = module.vectors();
    subject.k.push_back(to_named("k", k).data);
    subject.v.push_back(to_named("v", v).data);
  }
  return subject;
}

void learn(const DiffusionModel& model, const LearnRequest& request, const Hooks& hooks, LearnResult& result) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
  const Cancel cancel(hooks.cancelled);
  const auto report = [&](const Progress& progress) {
    if (hooks.progress) hooks.progress(progress);
  };
  Progress prepare;
  prepare.phase = "prepare";
  report(prepare);
  if (request.resume) result.state = *request.resume;
  Trainer trainer(model, request, cancel);
  const int64_t first = trainer.done();
  try {
    while (trainer.done() < request.steps) {
      if (hooks.yield) hooks.yield();
      cancel.check();
      const auto begin = Clock::now();
      auto progress = trainer.step();
      result.seconds += seconds(Clock::now() - begin);
      progress.seconds_left = result.seconds / static_cast<double>(trainer.done() - first) *
                              static_cast<double>(request.steps - trainer.done());
      report(progress);
      if (request.checkpoint_every > 0 && hooks.checkpoint && trainer.done() % request.checkpoint_every == 0 &&
          trainer.done() < request.steps) {
        hooks.checkpoint(trainer.state());
      }
    }
  } catch (...) {
    // Whatever stopped it, nothing that was learnt is lost; what is no number is nothing to go on from.
    if (trainer.done() > 0 && trainer.sound()) result.state = trainer.state();
    throw;
  }
  result.state = trainer.state();
  result.subject = trainer.subject();
}

}  // namespace swap
