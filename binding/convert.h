// JavaScript values -> the engine's structs and back.
//
// Reading copies, so that nothing of JavaScript is touched from another thread. A value of a wrong type is a
// coded exception (SWAP_ENGINE_ARGUMENT) that names the field, such as `request.spec.unet.levels[1].heads`;
// an exception of a getter passes through as it is.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "addon_api.h"
#include "fields.h"

namespace swap::binding {

// Where a value was found: a list that lies on the stack, written out for an error alone.
struct Path {
  const Path* parent = nullptr;
  const char* key = nullptr;
  uint32_t index = 0;  // where there is no key

  std::string text() const;
};

// `code`, `message` and `hint` of the status as an Error; its stack is that of the running call.
Napi::Error make_error(Napi::Env env, const Status& status);

// Throws SWAP_ENGINE_ARGUMENT: "<path> must be <wanted>, got <value>".
[[noreturn]] void reject(const Path& path, const char* wanted, Napi::Value got);

// --- reading: leaves

void read(Napi::Value value, const Path& path, bool& out);
void read(Napi::Value value, const Path& path, double& out);
void read(Napi::Value value, const Path& path, int64_t& out);
void read(Napi::Value value, const Path& path, uint64_t& out);
void read(Napi::Value value, const Path& path, std::string& out);
void read(Napi::Value value, const Path& path, std::vector<float>& out);    // a Float32Array
void read(Napi::Value value, const Path& path, std::vector<uint8_t>& out);  // a Uint8Array

// What a struct promises about itself, checked when its fields are read.
template <typename T>
void check(Napi::Env, const Path&, const T&) {}
void check(Napi::Env env, const Path& path, const NamedTensor& tensor);  // data fills the shape
void check(Napi::Env env, const Path& path, const Image& image);         // data fills the picture

// --- reading: lists and structs

// Stands for any visitor in the concept below.
struct AnyVisitor {
  template <typename T>
  void operator()(const char*, T&) {}
  template <typename T>
  void optional(const char*, T&) {}
};

template <typename T>
concept Described = requires(AnyVisitor& visit, T& it) {
  describe(visit, it);
};

template <Described T>
void read(Napi::Value value, const Path& path, T& out);
template <typename T>
void read(Napi::Value value, const Path& path, std::vector<T>& out);
template <typename T>
void read(Napi::Value value, const Path& path, std::optional<T>& out);

class Reader {
 public:
  Reader(Napi::Object object, const Path& path) : object_(object), path_(path) {}

  template <typename T>
  void operator()(const char* key, T& field) {
    read(object_.Get(key), Path{&path_, key}, field);
  }

  // Undefined: the field keeps its default.
  template <typename T>
  void optional(const char* key, T& field) {
    Napi::Value value = object_.Get(key);
    if (!value.IsUndefined()) read(value, Path{&path_, key}, field);
  }

 private:
  Napi::Object object_;
  const Path& path_;
};

template <Described T>
void read(Napi::Value value, const Path& path, T& out) {
  if (!value.IsObject()) reject(path, "an object", value);
  Napi::HandleScope scope(value.Env());
  Reader reader(value.As<Napi::Object>(), path);
  describe(reader, out);
  check(value.Env(), path, out);
}

template <typename T>
void read(Napi::Value value, const Path& path, std::vector<T>& out) {
  if (!value.IsArray()) reject(path, "an array", value);
  auto array = value.As<Napi::Array>();
  const uint32_t length = array.Length();
  out.clear();  // and no reserve(): a sparse array's length costs nothing to claim
  for (uint32_t i = 0; i < length; ++i) {
    Napi::HandleScope scope(value.Env());
    T item{};
    read(array.Get(i), Path{&path, nullptr, i}, item);
    out.push_back(std::move(item));
  }
}

template <typename T>
void read(Napi::Value value, const Path& path, std::optional<T>& out) {
  read(value, path, out.emplace());
}

// --- writing

inline Napi::Value write(Napi::Env env, bool it) { return Napi::Boolean::New(env, it); }
inline Napi::Value write(Napi::Env env, double it) { return Napi::Number::New(env, it); }
inline Napi::Value write(Napi::Env env, int64_t it) { return Napi::Number::New(env, static_cast<double>(it)); }
inline Napi::Value write(Napi::Env env, const std::string& it) { return Napi::String::New(env, it); }
// Copies into V8's memory: such arrays can be transferred to other threads, and Electron allows no others.
Napi::Value write(Napi::Env env, std::vector<float>& it);
Napi::Value write(Napi::Env env, std::vector<uint8_t>& it);

template <Described T>
Napi::Value write(Napi::Env env, T& it);
template <typename T>
Napi::Value write(Napi::Env env, std::vector<T>& it);

class Writer {
 public:
  explicit Writer(Napi::Object object) : object_(object) {}

  template <typename T>
  void operator()(const char* key, T& field) {
    object_.Set(key, write(object_.Env(), field));
  }

  template <typename T>
  void optional(const char* key, T& field) {
    (*this)(key, field);
  }

 private:
  Napi::Object object_;
};

template <Described T>
Napi::Value write(Napi::Env env, T& it) {
  Napi::EscapableHandleScope scope(env);
  Napi::Object object = Napi::Object::New(env);
  Writer writer(object);
  describe(writer, it);
  return scope.Escape(object);
}

template <typename T>
Napi::Value write(Napi::Env env, std::vector<T>& it) {
  Napi::EscapableHandleScope scope(env);
  Napi::Array array = Napi::Array::New(env, it.size());
  for (uint32_t i = 0; i < it.size(); ++i) array.Set(i, write(env, it[i]));
  return scope.Escape(array);
}

}  // namespace swap::binding
