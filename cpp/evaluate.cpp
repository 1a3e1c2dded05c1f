#include "evaluate.h"

#include <algorithm>

#include "personalize/trainer.h"
#include "runtime/tensors.h"
#include "sample/controls.h"
#include "sample/prompt_states.h"
#include "sample/scheduler.h"

namespace swap {
namespace {

class Evaluation {
 public:
  Evaluation(const DiffusionModel& model, const EvaluateRequest& request, Cancel cancel, EvaluateResult& result)
      : model_(model), request_(request), cancel_(cancel), result_(result) {}

  void text_states() {
    c10::NoGradGuard no_grad;
    const auto& encoder = model_.text.at(request_.text_encoder);
    const auto ids = input("ids").to(at::kLong);
    const auto encoded = encoder.encode_whole(encoder.embed(ids), cancel_);
    put("states", encoded.states);
    if (encoded.last.defined()) put("pooled", encoder.pooled(encoded.last, ids));
  }

  void prompt() {
    c10::NoGradGuard no_grad;
    if (!request_.generate) throw Error("SWAP_ENGINE_ARGUMENT", "prompt: no generate request");
    const auto timesteps = values("timesteps");
    if (timesteps.size() != 1) throw Error("SWAP_ENGINE_ARGUMENT", "prompt: timesteps must be one");
    PromptStates prompt(model_, request_.generate->prompt, request_.generate->subjects, cancel_);
    const auto& states = prompt.at(timesteps[0]);
    put("states_k", states.k);
    put("states_v", states.v);
    if (states.pooled.defined()) put("pooled", states.pooled);
  }

  void unet() {
    c10::NoGradGuard no_grad;
    auto context = attention();
    put("output", model_.unet(input("latents"), input("timesteps"), context, conditions()));
  }

  void control_net() {
    c10::NoGradGuard no_grad;
    auto context = attention();
    auto given = conditions();
    const auto& net = attached(model_, request_.control);
    net(input("latents"), input("timesteps"), net.embed(input("image")), 1, context, given);
    for (size_t i = 0; i < given.down_residuals.size(); ++i) {
      put("residual." + std::to_string(i), given.down_residuals[i].to(at::kFloat));
    }
    put("residual.mid", given.mid_residual.to(at::kFloat));
  }

  void vae_encode() {
    c10::NoGradGuard no_grad;
    const auto [mean, deviation] = model_.vae.encode(input("image"), cancel_);
    put("mean", mean);
    put("std", deviation);
  }

  void vae_decode() {
    c10::NoGradGuard no_grad;
    put("image", model_.vae.decode(input("latents"), cancel_));
  }

  void trajectory() {
    c10::NoGradGuard no_grad;
    if (!request_.scheduler) throw Error("SWAP_ENGINE_ARGUMENT", "trajectory: no scheduler");
    auto scheduler = make_scheduler(*request_.scheduler, request_.steps);
    const auto outputs = input("outputs");
    const auto& timesteps = scheduler->timesteps();
    if (outputs.size(0) < static_cast<int64_t>(timesteps.size())) {
      throw Error("SWAP_ENGINE_ARGUMENT", "trajectory: " + std::to_string(outputs.size(0)) + " outputs for " +
                                              std::to_string(timesteps.size()) + " calls");
    }
    // With "begin", as many calls are left out and "image" has "sample" laid over it.
    for (const double call : values("begin")) scheduler->begin_at(static_cast<int64_t>(call));
    auto sample = has("begin") ? scheduler->add_noise(input("image"), input("sample"), scheduler->begin())
                               : input("sample") * scheduler->init_noise_sigma();
    std::vector<int64_t> seeds;
    for (const double seed : values("seed")) seeds.push_back(static_cast<int64_t>(seed));
    Noise noise(seeds);
    std::vector<at::Tensor> samples, inputs;
    for (auto call = scheduler->begin(); call < static_cast<int64_t>(timesteps.size()); ++call) {
      inputs.push_back(scheduler->scale_model_input(sample, call));
      sample = scheduler->step(outputs[call], call, sample, noise);
      samples.push_back(sample);
    }
    put("timesteps", at::tensor(timesteps));
    put("inputs", at::stack(inputs));
    put("samples", at::stack(samples));
  }

  void gradient() {
    Trainer trainer(model_, learn(), cancel_);
    {
      c10::NoGradGuard no_grad;
      for (const auto& [name, parameter] : trainer.parameters()) {
        if (has(name)) parameter.copy_(input(name));
      }
    }
    TrainingDraw draw;
    for (const double t : values("timesteps")) draw.timesteps.push_back(static_cast<int64_t>(t));
    for (const double j : values("templates")) draw.templates.push_back(static_cast<int64_t>(j));
    const auto count = static_cast<int64_t>(request_.learn->templates.size());
    const bool known =
        std::all_of(draw.templates.begin(), draw.templates.end(), [&](int64_t j) { return j >= 0 && j < count; });
    if (!known || draw.templates.size() != draw.timesteps.size()) {
      throw Error("SWAP_ENGINE_ARGUMENT", "gradient: timesteps and templates must be one for each sample");
    }
    draw.latents = input("latents");
    draw.noise = input("noise");
    const auto [losses, gradient] = trainer.slope(draw);
    put("loss", losses[0]);
    put("reconstruction", losses[1]);
    put("attention", losses[2]);
    const auto& parameters = trainer.parameters();
    for (size_t i = 0; i < parameters.size(); ++i) {
      put("grad." + parameters[i].first, trainer.part(gradient, i));
    }
    const auto subject = trainer.subject();
    for (size_t e = 0; e < subject.k.size(); ++e) {
      const auto suffix = e == 0 ? std::string() : "." + std::to_string(e);
      result_.outputs.push_back({"k" + suffix, {static_cast<int64_t>(subject.k[e].size())}, subject.k[e]});
      result_.outputs.push_back({"v" + suffix, {static_cast<int64_t>(subject.v[e].size())}, subject.v[e]});
    }
  }

  void draws() {
    c10::NoGradGuard no_grad;
    const Trainer trainer(model_, learn(), cancel_);
    const auto draw = trainer.draw(static_cast<int64_t>(values("step").at(0)));
    put("timesteps", at::tensor(draw.timesteps));
    put("templates", at::tensor(draw.templates));
    put("latents", draw.latents);
    put("noise", draw.noise);
  }

 private:
  AttentionContext attention() const {
    AttentionContext context;
    context.cancel = cancel_;
    context.k_states = input("states_k").to(model_.unet.dtype());
    context.v_states = input("states_v").to(model_.unet.dtype());
    return context;
  }
  Conditions conditions() const {
    Conditions given;
    for (size_t i = 0; has("residual." + std::to_string(i)); ++i) {
      given.down_residuals.push_back(input("residual." + std::to_string(i)));
    }
    if (has("residual.mid")) given.mid_residual = input("residual.mid");
    if (has("pooled")) given.pooled = input("pooled");
    if (has("time_ids")) given.time_ids = input("time_ids");
    if (has("guidance")) given.guidance = input("guidance");
    return given;
  }
  const NamedTensor* find(const std::string& name) const {
    const auto& inputs = request_.inputs;
    const auto found = std::find_if(inputs.begin(), inputs.end(), [&](const auto& t) { return t.name == name; });
    return found == inputs.end() ? nullptr : &*found;
  }
  bool has(const std::string& name) const { return find(name) != nullptr; }
  at::Tensor input(const std::string& name) const {
    const auto* tensor = find(name);
    if (!tensor) throw Error("SWAP_ENGINE_ARGUMENT", request_.op + ": no input '" + name + "'");
    return to_tensor(*tensor).to(model_.compute.device);
  }
  std::vector<float> values(const std::string& name) const {
    const auto* tensor = find(name);
    return tensor ? tensor->data : std::vector<float>();
  }
  const LearnRequest& learn() const {
    if (!request_.learn) throw Error("SWAP_ENGINE_ARGUMENT", request_.op + ": no learn request");
    return *request_.learn;
  }
  void put(const std::string& name, const at::Tensor& tensor) { result_.outputs.push_back(to_named(name, tensor)); }

  const DiffusionModel& model_;
  const EvaluateRequest& request_;
  Cancel cancel_;
  EvaluateResult& result_;
};

}  // namespace

void evaluate(const DiffusionModel& model, const EvaluateRequest& request, const Hooks& hooks, EvaluateResult& result) {
  Evaluation evaluation(model, request, Cancel(hooks.cancelled), result);
  if (request.op == "text_states") return evaluation.text_states();
  if (request.op == "prompt") return evaluation.prompt();
  if (request.op == "unet") return evaluation.unet();
  if (request.op == "controlnet") return evaluation.control_net();
  if (request.op == "vae_encode") return evaluation.vae_encode();
  if (request.op == "vae_decode") return evaluation.vae_decode();
  if (request.op == "trajectory") return evaluation.trajectory();
  if (request.op == "gradient") return evaluation.gradient();
  if (request.op == "draws") return evaluation.draws();
  throw Error("SWAP_ENGINE_ARGUMENT", "evaluate: unknown op '" + request.op + "'");
}

}  // namespace swap
