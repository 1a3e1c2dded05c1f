// The engine behind engine.h, and the one wall where exceptions become a Status.
#include "engine.h"

#include <ATen/Context.h>
#include <torch/version.h>

#include <memory>
#include <new>
#include <optional>

#include "attention/split_attention.h"
#include "evaluate.h"
#include "models/diffusion_model.h"
#include "personalize/trainer.h"
#include "runtime/memory.h"
#include "sample/sampler.h"

namespace swap {
namespace {

// The first line of a LibTorch error says what happened; the rest is its own stack.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

Status out_of_memory(const std::string& what) {
  return {"SWAP_MEMORY_EXHAUSTED", "out of memory: " + what, "use a smaller picture or batch, or dtype 'bfloat16'"};
}

template <typename Body>
Status guard(Body&& body) noexcept {
  try {
    try {
      body();
      return {};
    } catch (const Cancelled&) {
      return {"SWAP_CANCELLED", "the job was cancelled", ""};
    } catch (const Error& e) {
      return {e.code, e.what(), e.hint};
    } catch (const c10::OutOfMemoryError& e) {
      return out_of_memory(first_line(e.what_without_backtrace()));
    } catch (const c10::Error& e) {
      const auto what = first_line(e.what_without_backtrace());
      if (what.find("can't allocate memory") != std::string::npos) return out_of_memory(what);
      return {"SWAP_ENGINE_INTERNAL", "LibTorch: " + what, "please report this"};
    } catch (const std::bad_alloc&) {
      return out_of_memory("allocation failed");
    } catch (const std::exception& e) {
      return {"SWAP_ENGINE_INTERNAL", first_line(e.what()), "please report this"};
    }
  } catch (...) {
    // Even the message could not be made.
  }
  return Status{"SWAP_ENGINE_INTERNAL", "", ""};
}

std::function<void(int64_t, int64_t)> loading(const Hooks& hooks) {
  return [&hooks](int64_t done, int64_t total) {
    if (!hooks.progress) return;
    Progress progress;
    progress.phase = "load";
    progress.done = done;
    progress.total = total;
    hooks.progress(progress);
  };
}

// What would divide by zero or read past an end.
void check_unet(const UNetSpec& spec, const std::string& what) {
  const auto check = [&](bool ok, const char* lacks) {
    if (!ok) throw Error("SWAP_ENGINE_ARGUMENT", "spec: " + what + " has no " + lacks);
  };
  check(!spec.levels.empty(), "level");
  for (const auto& level : spec.levels) check(level.heads > 0, "heads at a level");
  check(spec.mid_heads > 0, "heads in its middle");
}

class TorchEngine final : public Engine {
 public:
  Status load(const LoadRequest& request, const Hooks& hooks, EngineInfo& info) noexcept override {
    return guard([&] {
      const ReleaseAtEnd release;
      keep_blocks();
      model_.reset();
      const auto check = [](bool ok, const char* what) {
        if (!ok) throw Error("SWAP_ENGINE_ARGUMENT", std::string("spec: ") + what);
      };
      check(!request.spec.text_encoders.empty(), "no text encoder");
      check(!request.spec.vae.channels.empty(), "the VAE has no level");
      for (const auto& encoder : request.spec.text_encoders) check(encoder.heads > 0, "a text encoder has no heads");
      check_unet(request.spec.unet, "the U-Net");
      Compute compute = resolve_compute(request);
      compute.threads = threads_.take(request.threads);
      // Denormals make some layers ten times slower and change nothing that can be seen.
      at::globalContext().setFlushDenormal(true);
      if (compute.device.is_cuda()) {
        // What is learnt is the same to the bit when it is learnt again or resumed.
        at::globalContext().setDeterministicCuDNN(true);
        at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
        at::globalContext().setDeterministicFillUninitializedMemory(false);
      }
      info.attention = attention_name(compute.device, compute.dtype);
      c10::NoGradGuard no_grad;
      WeightStore store(request.tensors, compute, Cancel(hooks.cancelled), loading(hooks), request.deltas);
      model_.emplace(store, request.spec);
      store.finish();
      info.device = compute.device.str();
      info.dtype = dtype_name(compute.dtype);
      info.threads = compute.threads;
      info.parameters = store.parameters();
      info.weight_bytes = store.bytes();
      info.libtorch = TORCH_VERSION;
      info.cpu_features = cpu_features();
    });
  }

  Status attach(const AttachRequest& request, const Hooks& hooks, AttachInfo& info) noexcept override {
    return guard([&] {
      auto& controls = model().controls;
      // One of that name is let go first: the two are never in memory together.
      controls.erase(request.name);
      if (!request.spec) return;
      check_unet(request.spec->unet, "the ControlNet");
      if (request.spec->image_widths.empty()) throw Error("SWAP_ENGINE_ARGUMENT", "spec: a picture without widths");
      const auto& compute = model().compute;
      c10::NoGradGuard no_grad;
      WeightStore store(request.tensors, compute, Cancel(hooks.cancelled), loading(hooks));
      ControlNet net(Scope(store, "controlnet.", compute.dtype), *request.spec);
      store.finish();
      net.check_fits(model().unet, model().vae.factor());
      controls.emplace(request.name, std::move(net));
      info.parameters = store.parameters();
      info.weight_bytes = store.bytes();
    });
  }

  Status learn(const LearnRequest& request, const Hooks& hooks, LearnResult& result) noexcept override {
    return guard([&] {
      const ReleaseAtEnd release;
      swap::learn(model(), request, hooks, result);
    });
  }

  Status generate(const GenerateRequest& request, const Hooks& hooks, GenerateResult& result) noexcept override {
    return guard([&] {
      const ReleaseAtEnd release;
      swap::generate(model(), request, hooks, result);
    });
  }

  Status evaluate(const EvaluateRequest& request, const Hooks& hooks, EvaluateResult& result) noexcept override {
    return guard([&] {
      const ReleaseAtEnd release;
      swap::evaluate(model(), request, hooks, result);
    });
  }

 private:
  DiffusionModel& model() {
    if (!model_) throw Error("SWAP_ENGINE_ARGUMENT", "no model is loaded");
    return *model_;
  }

  ReleaseAtEnd release_;  // after the model, which is declared below and so goes first
  ThreadLease threads_;
  std::optional<DiffusionModel> model_;
};

Engine* create() noexcept { return new (std::nothrow) TorchEngine(); }
void destroy(Engine* engine) noexcept { delete engine; }

#if defined(SWAP_CUDA)
constexpr const char* kFlavour = "cuda";
#else
constexpr const char* kFlavour = "cpu";
#endif
constexpr EngineFactory kFactory{kEngineAbi, kFlavour, TORCH_VERSION, &create, &destroy};

}  // namespace
}  // namespace swap

extern "C" SWAP_EXPORT const swap::EngineFactory* swap_engine() noexcept { return &swap::kFactory; }
