#include "engine_object.h"

#include <utility>

#include "call.h"
#include "convert.h"

namespace swap::binding {

namespace {

constexpr napi_type_tag kEngineTag = {0x5a1d0c6e3b7f4e21, 0x9f64c2d8a7b0135e};

void check_receiver(const Napi::CallbackInfo& info) {
  if (info.This().IsObject() && info.This().As<Napi::Object>().CheckTypeTag(&kEngineTag)) return;
  throw make_error(info.Env(), {"SWAP_ENGINE_ARGUMENT", "called on something that is not an engine", ""});
}

}  // namespace

Napi::Function EngineObject::define(Napi::Env env) {
  return DefineClass(env, "NativeEngine",
                     {
                         InstanceMethod<&EngineObject::start<LoadCall>>("load"),
                         InstanceMethod<&EngineObject::start<AttachCall>>("attach"),
                         InstanceMethod<&EngineObject::start<LearnCall>>("learn"),
                         InstanceMethod<&EngineObject::start<GenerateCall>>("generate"),
                         InstanceMethod<&EngineObject::start<EvaluateCall>>("evaluate"),
                         InstanceMethod<&EngineObject::close>("close"),
                     });
}

EngineObject::EngineObject(const Napi::CallbackInfo& info)
    : ObjectWrap(info), handle_(std::exchange(Environment::of(info.Env()).newborn, nullptr)) {
  if (!handle_) {
    throw make_error(info.Env(), {"SWAP_ENGINE_ARGUMENT", "an engine is made by createEngine() alone", ""});
  }
  info.This().As<Napi::Object>().TypeTag(&kEngineTag);
}

EngineObject::~EngineObject() {
  if (handle_) handle_->worker->close();
}

template <typename CallType>
Napi::Value EngineObject::start(const Napi::CallbackInfo& info) {
  check_receiver(info);
  typename CallType::Request request;
  read(info[0], Path{nullptr, "request"}, request);
  if (!info[1].IsFunction()) reject(Path{nullptr, "onEvent"}, "a function", info[1]);
  auto& environment = Environment::of(info.Env());
  const uint64_t id = environment.next_id();
  auto job = std::make_shared<CallType>(id, std::move(request), environment.mailbox());
  return environment.start_task(info.This().As<Napi::Object>(), handle_, id, std::move(job),
                                info[1].As<Napi::Function>());
}

Napi::Value EngineObject::close(const Napi::CallbackInfo& info) {
  check_receiver(info);
  return Environment::of(info.Env()).close_engine(*handle_);
}

}  // namespace swap::binding
