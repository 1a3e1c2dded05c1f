// The class behind NativeEngine of lib/native.ts.
#pragma once

#include <memory>

#include "addon_api.h"
#include "environment.h"

namespace swap::binding {

class EngineObject : public Napi::ObjectWrap<EngineObject> {
 public:
  static Napi::Function define(Napi::Env env);

  // Private to createEngine: from JavaScript, `new` throws.
  explicit EngineObject(const Napi::CallbackInfo& info);
  // An object that was never closed: its engine ends on its own.
  ~EngineObject() override;

 private:
  template <typename CallType>
  Napi::Value start(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);

  std::shared_ptr<EngineHandle> handle_;
};

}  // namespace swap::binding
