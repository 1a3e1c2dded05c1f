// The addon's module: NativeBinding of lib/native.ts.
#include "addon_api.h"
#include "convert.h"
#include "engine_object.h"
#include "environment.h"
#include "library.h"

namespace swap::binding {

struct EngineOptions {
  std::vector<std::string> libraries;
  std::string engine;
};

template <typename V>
void describe(V& visit, EngineOptions& it) {
  visit("libraries", it.libraries);
  visit("engine", it.engine);
}

namespace {

EngineOptions read_options(const Napi::CallbackInfo& info) {
  EngineOptions options;
  const Path path{nullptr, "options"};
  if (!info[0].IsObject()) reject(path, "an object", info[0]);
  Reader reader(info[0].As<Napi::Object>(), path);
  describe(reader, options);
  return options;
}

class Opening final : public Napi::AsyncWorker {
 public:
  Opening(Napi::Env env, EngineOptions options)
      : AsyncWorker(env, "swap libraries"), options_(std::move(options)), deferred_(env) {}
  Napi::Promise promise() const { return deferred_.Promise(); }

 protected:
  void Execute() override {
    std::lock_guard lock(door_->mutex);
    if (door_->shut) return;
    const EngineFactory* factory = nullptr;
    status_ = open_engine(options_.libraries, options_.engine, factory);
  }
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }
  void OnOK() override {
    if (status_.ok()) {
      deferred_.Resolve(Env().Undefined());
    } else {
      deferred_.Reject(make_error(Env(), status_).Value());
    }
  }

 private:
  const BriefWaiting waiting_;
  const EngineOptions options_;
  const std::shared_ptr<Door> door_ = Environment::of(Env()).door();
  Napi::Promise::Deferred deferred_;
  Status status_;
};

Napi::Value open_libraries(const Napi::CallbackInfo& info) {
  auto* opening = new Opening(info.Env(), read_options(info));
  auto promise = opening->promise();
  opening->Queue();  // which deletes it when it is done
  return promise;
}

Napi::Value create_engine(const Napi::CallbackInfo& info) {
  const auto options = read_options(info);
  const BriefWaiting waiting;
  const EngineFactory* factory = nullptr;
  if (auto status = open_engine(options.libraries, options.engine, factory); !status.ok()) {
    throw make_error(info.Env(), status);
  }
  auto& environment = Environment::of(info.Env());
  environment.newborn = environment.start_engine(*factory);
  return environment.engine_class.New({});
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  pin_addon();
  auto* environment = new Environment(env);
  env.SetInstanceData(environment);
  environment->engine_class = Napi::Persistent(EngineObject::define(env));
  exports.Set("abi", kEngineAbi);
  exports.Set("openLibraries", Napi::Function::New<open_libraries>(env, "openLibraries"));
  exports.Set("createEngine", Napi::Function::New<create_engine>(env, "createEngine"));
  return exports;
}

}  // namespace

}  // namespace swap::binding

static Napi::Object init_addon(Napi::Env env, Napi::Object exports) { return swap::binding::init(env, exports); }

NODE_API_MODULE(swap_native, init_addon)
