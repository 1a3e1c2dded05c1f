// engine.h without LibTorch: the same face, small deterministic maths, and behaviour on demand. With it the binding,
// the package and the command line are tested in seconds, under sanitizers too.
//
// It checks its callers: all calls must come from the thread of the first one, and nothing but what Hooks::yield
// allows may come while a call runs.
//
// What a test can ask for:
//   seed 9001 (learn, generate)   works on until it is cancelled; a learning yields meanwhile
//   seed 9002 (learn, generate)   fails after half of its steps with SWAP_NUMERIC_NAN
//   seed 9003 (learn, generate)   fails at once with SWAP_MEMORY_DEVICE
//   seed 9004 (learn, generate)   sends 200000 events of progress at its first step
//   op "block" (evaluate)         works on until it is cancelled
//   op "fail" (evaluate)          fails with the first input's name as code
//   op "flood" (evaluate)         sends as many events as the first input has values
//   any other op (evaluate)       gives its inputs back
//   SWAP_FAKE_LOAD=block|fail     load works on until it is cancelled, or fails with SWAP_MEMORY_DEVICE;
//                                 device "cuda" blocks and "cuda:9" fails as well
//   SWAP_FAKE_STEP_MS=<n>         how long a step takes; read at load
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <set>
#include <thread>
#include <utility>

#include "../../cpp/engine.h"

namespace swap {

namespace {

constexpr int64_t kBlockSeed = 9001, kFailSeed = 9002, kNoMemorySeed = 9003, kFloodSeed = 9004;
constexpr int64_t kFlood = 200'000;

// SplitMix64 of a sequence of numbers.
uint64_t mix(uint64_t state, uint64_t value) {
  state += 0x9e3779b97f4a7c15 + value;
  state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9;
  state = (state ^ (state >> 27)) * 0x94d049bb133111eb;
  return state ^ (state >> 31);
}

float unit(uint64_t hash) { return static_cast<float>(hash >> 40) / static_cast<float>(1 << 24); }  // [0, 1)

uint64_t hash_of(const std::vector<std::vector<int64_t>>& ids) {
  uint64_t hash = 1;
  for (auto& list : ids)
    for (int64_t id : list) hash = mix(hash, static_cast<uint64_t>(id));
  return hash;
}

bool is_cancelled(const Hooks& hooks) { return hooks.cancelled && *hooks.cancelled; }

void tell(const Hooks& hooks, const Progress& progress) {
  if (hooks.progress) hooks.progress(progress);
}

Progress at(const char* phase, int64_t done, int64_t total) {
  Progress progress;
  progress.phase = phase;
  progress.done = done;
  progress.total = total;
  return progress;
}

Status cancelled(const char* what) { return {"SWAP_CANCELLED", std::string(what) + " was cancelled", ""}; }

Status no_memory() {
  return {"SWAP_MEMORY_DEVICE", "the device has no memory left", "use a smaller picture or another device"};
}

// Waits, or works on for ever, in blocks of a millisecond.
bool work(const Hooks& hooks, int64_t milliseconds, bool for_ever = false) {
  for (int64_t i = 0; for_ever || i < milliseconds; ++i) {
    if (is_cancelled(hooks)) return false;
    if (hooks.yield) hooks.yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return !is_cancelled(hooks);
}

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

class FakeEngine final : public Engine {
 public:
  Status load(const LoadRequest& request, const Hooks& hooks, EngineInfo& info) noexcept override {
    return guarded([&] { return do_load(request, hooks, info); }, false);
  }
  Status attach(const AttachRequest& request, const Hooks& hooks, AttachInfo& info) noexcept override {
    return guarded([&] { return do_attach(request, hooks, info); }, true);
  }
  Status learn(const LearnRequest& request, const Hooks& hooks, LearnResult& result) noexcept override {
    return guarded(
        [&] {
          learning_ = true;
          Status status = do_learn(request, hooks, result);
          learning_ = false;
          return status;
        },
        false);
  }
  Status generate(const GenerateRequest& request, const Hooks& hooks, GenerateResult& result) noexcept override {
    return guarded([&] { return do_generate(request, hooks, result); }, true);
  }
  Status evaluate(const EvaluateRequest& request, const Hooks& hooks, EvaluateResult& result) noexcept override {
    return guarded([&] { return do_evaluate(request, hooks, result); }, true);
  }

 private:
  // Holds callers to the contract, and keeps exceptions in.
  template <typename Function>
  Status guarded(Function function, bool between_steps) noexcept {
    try {
      if (depth_ == 0 && owner_ == std::thread::id()) owner_ = std::this_thread::get_id();
      if (owner_ != std::this_thread::get_id()) return broken("called from another thread");
      if (depth_ > 0 && !(depth_ == 1 && learning_ && between_steps)) return broken("called while another call runs");
      ++depth_;
      Status status = function();
      --depth_;
      return status;
    } catch (...) {
      --depth_;
      return no_memory();
    }
  }

  static Status broken(const char* what) { return {"SWAP_ENGINE_CONTRACT", std::string("the engine was ") + what, ""}; }
  static Status state(const char* what) { return {"SWAP_ENGINE_STATE", what, ""}; }

  // Sums up the bytes, so that a test sees that they were read, and keeps them, so that it sees if they are not given
  // back.
  Status sum_tensor(const TensorEntry& tensor, const Hooks& hooks) {
    const std::unique_ptr<std::FILE, CloseFile> file(std::fopen(tensor.file.c_str(), "rb"));
    if (!file) return {"SWAP_FILE_READ", "cannot open " + tensor.file, ""};
    std::vector<unsigned char> chunk(1 << 16);
    if (std::fseek(file.get(), static_cast<long>(tensor.begin), SEEK_SET) != 0) {
      return {"SWAP_FILE_READ", "cannot read " + tensor.file, ""};
    }
    for (uint64_t left = tensor.end - tensor.begin; left > 0;) {
      if (is_cancelled(hooks)) return cancelled("loading");
      const size_t got = std::fread(chunk.data(), 1, std::min<uint64_t>(left, chunk.size()), file.get());
      if (got == 0) return {"SWAP_TENSOR_RANGE", tensor.name + " ends beyond " + tensor.file, "the file is cut short"};
      for (size_t i = 0; i < got; ++i) sum_ += chunk[i];
      weights_.insert(weights_.end(), chunk.begin(), chunk.begin() + static_cast<std::ptrdiff_t>(got));
      left -= got;
    }
    return {};
  }

  Status do_load(const LoadRequest& request, const Hooks& hooks, EngineInfo& info) {
    loaded_ = false;
    weights_.clear();
    attached_.clear();
    const char* step = std::getenv("SWAP_FAKE_STEP_MS");
    step_ms_ = step ? std::atoll(step) : 0;
    const char* variable = std::getenv("SWAP_FAKE_LOAD");
    const std::string wish = variable ? variable : "";
    uint64_t total = 0, done = 0;
    for (auto& tensor : request.tensors) {
      if (tensor.end < tensor.begin)
        return {"SWAP_TENSOR_RANGE", tensor.name + " has a range that ends before it begins", ""};
      total += tensor.end - tensor.begin;
    }
    tell(hooks, at("load", 0, static_cast<int64_t>(total)));
    if (wish == "fail" || request.device == "cuda:9") return no_memory();
    if (wish == "block" || request.device == "cuda") {
      work(hooks, 0, true);
      return cancelled("loading");
    }
    for (auto& tensor : request.tensors) {
      if (auto status = sum_tensor(tensor, hooks); !status.ok()) return status;
      int64_t elements = 1;
      for (int64_t size : tensor.shape) elements *= size;
      info.parameters += elements;
      done += tensor.end - tensor.begin;
      tell(hooks, at("load", static_cast<int64_t>(done), static_cast<int64_t>(total)));
    }
    spec_ = request.spec;
    loaded_ = true;
    info.device = request.device;
    info.dtype = request.dtype == "auto" ? "float32" : request.dtype;
    info.threads = request.threads > 0 ? request.threads : 1;
    info.weight_bytes = static_cast<int64_t>(total);
    info.attention = "fake";
    info.cpu_features = "sum " + std::to_string(sum_);
    return {};
  }

  Status do_attach(const AttachRequest& request, const Hooks& hooks, AttachInfo& info) {
    if (!loaded_) return state("no model is loaded");
    attached_.erase(request.name);
    if (!request.spec) return {};
    for (auto& tensor : request.tensors) {
      if (auto status = sum_tensor(tensor, hooks); !status.ok()) return status;
      info.weight_bytes += static_cast<int64_t>(tensor.end - tensor.begin);
    }
    attached_.insert(request.name);
    return {};
  }

  // Pulls the subject's vectors to values that the photo alone decides. All that a step draws comes from
  // (seed, step), and all that it changes is in the state.
  Status do_learn(const LearnRequest& request, const Hooks& hooks, LearnResult& result) {
    if (!loaded_) return state("no model is loaded");
    if (request.seed == kNoMemorySeed) return no_memory();
    if (request.steps < 1 || request.stages < 1 || request.class_tokens < 1 || request.templates.empty()) {
      return {"SWAP_OPTION_STEPS", "nothing to learn", "give at least one step, stage, token and template"};
    }
    const size_t encoders = spec_.text_encoders.size();
    auto& tensors = result.state.tensors;
    auto& step = result.state.step;
    if (request.resume) {
      result.state = *request.resume;
      if (tensors.size() != 2 * encoders) return {"SWAP_RESUME_SHAPE", "the resume state is of another model", ""};
    }
    for (size_t e = 0; e < encoders; ++e) {
      const std::vector<int64_t> shape{request.stages, request.class_tokens, spec_.text_encoders[e].width};
      for (size_t i : {2 * e, 2 * e + 1}) {
        if (request.resume) {
          if (tensors[i].shape != shape) return {"SWAP_RESUME_SHAPE", "the resume state is of another subject", ""};
          continue;
        }
        NamedTensor tensor{(i % 2 == 0 ? "k." : "v.") + std::to_string(e), shape, {}};
        const uint64_t hash = hash_of(request.templates[0].ids);
        const int64_t width = shape[1] * shape[2];
        for (int64_t j = 0; j < shape[0] * width; ++j) {
          tensor.data.push_back(unit(mix(hash, static_cast<uint64_t>(j % width))) -
                                0.5f);  // the class word, at every stage
        }
        tensors.push_back(std::move(tensor));
      }
    }

    const auto target = target_of(request.image);
    const float rate = static_cast<float>(std::min(0.5, request.learning_rate * 100));
    tell(hooks, at("prepare", 1, 1));
    const auto start = std::chrono::steady_clock::now();
    const auto finish = [&](Status status) {
      result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      return status;
    };
    while (step < request.steps) {
      if (hooks.yield) hooks.yield();
      if (!work(hooks, step_ms_)) return finish(cancelled("learning"));
      if (request.seed == kFailSeed && 2 * step >= request.steps) {
        return finish({"SWAP_NUMERIC_NAN", "the loss of step " + std::to_string(step) + " is not a number",
                       "lower the learning rate"});
      }
      const uint64_t draw = mix(static_cast<uint64_t>(request.seed), static_cast<uint64_t>(step));
      const int64_t stage = static_cast<int64_t>(draw % static_cast<uint64_t>(request.stages));
      double loss = 0;
      for (auto& tensor : tensors) loss += pull(tensor, stage, target, rate * (0.5f + 0.5f * unit(draw)));
      if (!request.split) {
        for (size_t e = 0; e < encoders; ++e) tensors[2 * e + 1].data = tensors[2 * e].data;
      }
      ++step;
      Progress progress = at("step", step, request.steps);
      progress.loss = progress.reconstruction = loss / static_cast<double>(tensors.size());
      progress.stage = stage;
      progress.seconds_left = static_cast<double>((request.steps - step) * step_ms_) / 1000;
      tell(hooks, progress);
      if (request.seed == kFloodSeed && step == 1) flood(hooks, kFlood);
      if (request.checkpoint_every > 0 && step % request.checkpoint_every == 0 && hooks.checkpoint)
        hooks.checkpoint(result.state);
      if (request.seed == kBlockSeed && !work(hooks, 0, true)) return finish(cancelled("learning"));
    }
    result.subject.stages = request.stages;
    result.subject.tokens = request.class_tokens;
    for (size_t e = 0; e < encoders; ++e) {
      result.subject.k.push_back(tensors[2 * e].data);
      result.subject.v.push_back(tensors[2 * e + 1].data);
    }
    return finish({});
  }

  // The photo's mean colour, then values that depend on every pixel.
  static std::vector<float> target_of(const Image& image) {
    double sums[3] = {};
    uint64_t hash = 3;
    for (size_t i = 0; i < image.data.size(); ++i) {
      sums[i % 3] += image.data[i];
      hash = mix(hash, image.data[i]);
    }
    std::vector<float> target;
    const double pixels = std::max<double>(1, static_cast<double>(image.data.size()) / 3);
    for (double sum : sums) target.push_back(static_cast<float>(sum / pixels / 255 - 0.5));
    for (uint64_t i = 0; i < 61; ++i) target.push_back(unit(mix(hash, i)) - 0.5f);
    return target;
  }

  // One step of one stage; gives the mean square distance before it.
  static double pull(NamedTensor& tensor, int64_t stage, const std::vector<float>& target, float rate) {
    const int64_t width = tensor.shape[2], count = tensor.shape[1] * width;
    float* values = tensor.data.data() + stage * count;
    double distance = 0;
    for (int64_t j = 0; j < count; ++j) {
      const float gap = target[static_cast<size_t>(j % width) % target.size()] - values[j];
      distance += static_cast<double>(gap) * gap;
      values[j] += rate * gap;
    }
    return distance / static_cast<double>(std::max<int64_t>(1, count));
  }

  // A background that the prompt decides, a grain that the seed decides, and a disc of its own colour for every
  // subject.
  Status do_generate(const GenerateRequest& request, const Hooks& hooks, GenerateResult& result) {
    if (!loaded_) return state("no model is loaded");
    if (request.steps < 1) return {"SWAP_OPTION_STEPS", "zero steps", ""};
    if (request.width < 1 || request.height < 1 || request.width > 16384 || request.height > 16384) {
      return {"SWAP_OPTION_SIZE",
              std::to_string(request.width) + " x " + std::to_string(request.height) + " is no size", ""};
    }
    for (auto& slot : request.prompt.slots) {
      if (slot.subject < 0 || slot.subject >= static_cast<int64_t>(request.subjects.size())) {
        return {"SWAP_PROMPT_UNKNOWN_SUBJECT", "slot of subject " + std::to_string(slot.subject), ""};
      }
    }
    for (auto& control : request.controls) {
      if (!attached_.count(control.net)) return {"SWAP_ENGINE_ARGUMENT", "no ControlNet \"" + control.net + "\"", ""};
    }
    const auto images = static_cast<int64_t>(request.seeds.size());
    for (int64_t i = 0; i < images; ++i) {
      const int64_t seed = request.seeds[static_cast<size_t>(i)];
      if (seed == kNoMemorySeed) return no_memory();
      for (int64_t step = 0; step < request.steps; ++step) {
        if (!work(hooks, step_ms_)) return cancelled("generation");
        if (seed == kFailSeed && 2 * step >= request.steps)
          return {"SWAP_NUMERIC_NAN", "the latents are not numbers", ""};
        Progress progress = at("step", i * request.steps + step + 1, images * request.steps);
        progress.soon = seed != kBlockSeed && step_ms_ < kSoon.count() && step + 1 < request.steps;
        tell(hooks, progress);
        if (seed == kBlockSeed && !work(hooks, 0, true)) return cancelled("generation");
        if (seed == kFloodSeed && step == 0) flood(hooks, kFlood);
      }
      result.images.push_back(draw(request, static_cast<uint64_t>(seed)));
      tell(hooks, at("decode", i + 1, images));
    }
    return {};
  }

  static Image draw(const GenerateRequest& request, uint64_t seed) {
    const uint64_t prompt = hash_of(request.prompt.ids);
    Image image{request.width, request.height, {}};
    image.data.resize(static_cast<size_t>(image.width * image.height * 3));
    const auto pixel = [&](int64_t x, int64_t y) { return image.data.data() + (y * image.width + x) * 3; };
    for (int64_t y = 0; y < image.height; ++y) {
      for (int64_t x = 0; x < image.width; ++x) {
        const double grain = unit(mix(seed, static_cast<uint64_t>(y * image.width + x))) * 24;
        for (uint64_t c = 0; c < 3; ++c) {
          const double base =
              60 + 120 * unit(mix(prompt, c)) + 40.0 * static_cast<double>(y) / static_cast<double>(image.height);
          pixel(x, y)[c] = static_cast<uint8_t>(std::clamp(base + grain, 0.0, 255.0));
        }
      }
    }
    const double side = static_cast<double>(std::min(image.width, image.height));
    for (size_t i = 0; i < request.prompt.slots.size(); ++i) {
      const auto colour = colour_of(request.subjects[static_cast<size_t>(request.prompt.slots[i].subject)]);
      const double cx = (0.3 + 0.4 * unit(mix(seed, 2 * i))) * static_cast<double>(image.width);
      const double cy = (0.3 + 0.4 * unit(mix(seed, 2 * i + 1))) * static_cast<double>(image.height);
      for (int64_t y = 0; y < image.height; ++y) {
        for (int64_t x = 0; x < image.width; ++x) {
          if (std::hypot(static_cast<double>(x) - cx, static_cast<double>(y) - cy) > side / 5) continue;
          for (size_t c = 0; c < 3; ++c) pixel(x, y)[c] = colour[c];
        }
      }
    }
    return image;
  }

  // The mean over the stages of the first three values: once learnt, the photo's mean colour.
  static std::vector<uint8_t> colour_of(const SubjectVectors& subject) {
    std::vector<uint8_t> colour(3, 128);
    if (subject.v.empty() || subject.stages < 1) return colour;
    const auto& values = subject.v[0];
    const size_t stages = static_cast<size_t>(subject.stages), stride = values.size() / stages;
    for (size_t c = 0; c < 3 && c < stride; ++c) {
      double sum = 0;
      for (size_t s = 0; s < stages; ++s) sum += values[s * stride + c];
      colour[c] = static_cast<uint8_t>(std::clamp((sum / static_cast<double>(stages) + 0.5) * 255, 0.0, 255.0));
    }
    return colour;
  }

  Status do_evaluate(const EvaluateRequest& request, const Hooks& hooks, EvaluateResult& result) {
    if (request.op == "block") {
      tell(hooks, at("step", 1, 1));
      work(hooks, 0, true);
      return cancelled("evaluation");
    }
    if (request.op == "fail") {
      return {request.inputs.empty() ? "SWAP_ENGINE_FAKE" : request.inputs[0].name, "failed as asked",
              "ask for something else"};
    }
    if (request.op == "flood" && !request.inputs.empty())
      flood(hooks, static_cast<int64_t>(request.inputs[0].data.size()));
    result.outputs = request.inputs;
    return {};
  }

  static void flood(const Hooks& hooks, int64_t events) {
    for (int64_t i = 1; i <= events && !is_cancelled(hooks); ++i) tell(hooks, at("step", i, events));
  }

  ModelSpec spec_;
  bool loaded_ = false, learning_ = false;
  int depth_ = 0;
  int64_t step_ms_ = 0;
  uint64_t sum_ = 0;
  std::vector<unsigned char> weights_;
  std::set<std::string> attached_;
  std::thread::id owner_;
};

const EngineFactory kFactory = {kEngineAbi, "fake", "",
                                []() noexcept -> Engine* { return new (std::nothrow) FakeEngine; },
                                [](Engine* engine) noexcept { delete engine; }};

}  // namespace

}  // namespace swap

extern "C" SWAP_EXPORT const swap::EngineFactory* swap_engine() noexcept { return &swap::kFactory; }
