#include "convert.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace swap::binding {

namespace {

constexpr double kMaxSafeInteger = 9007199254740991.0;

[[noreturn]] void reject(Napi::Env env, const std::string& message) {
  throw make_error(env, {"SWAP_ENGINE_ARGUMENT", message, ""});
}

// A number as JavaScript would show it, near enough.
std::string number_text(double number) {
  if (std::isnan(number)) return "NaN";
  if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
  char text[32];
  std::snprintf(text, sizeof(text), "%.17g", number);
  return text;
}

// Says what a value is without calling anything of it.
std::string value_text(Napi::Value value) {
  switch (value.Type()) {
    case napi_undefined:
      return "undefined";
    case napi_null:
      return "null";
    case napi_boolean:
      return value.As<Napi::Boolean>().Value() ? "true" : "false";
    case napi_number:
      return number_text(value.As<Napi::Number>().DoubleValue());
    case napi_string: {
      std::string text = value.As<Napi::String>().Utf8Value();
      if (text.size() <= 60) return "\"" + text + "\"";
      size_t end = 57;
      while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // whole characters
      return "\"" + text.substr(0, end) + "...\"";
    }
    case napi_symbol:
      return "a symbol";
    case napi_function:
      return "a function";
    case napi_bigint:
      return "a bigint";
    default:
      if (value.IsArray()) return "an array";
      if (value.IsTypedArray()) return "a typed array of another kind";
      return "an object";
  }
}

double read_integer(Napi::Value value, const Path& path, double low, const char* wanted) {
  if (!value.IsNumber()) reject(path, wanted, value);
  const double number = value.As<Napi::Number>().DoubleValue();
  if (!(number >= low && number <= kMaxSafeInteger) || number != std::trunc(number)) reject(path, wanted, value);
  return number;
}

template <typename T>
void read_typed_array(Napi::Value value, const Path& path, napi_typedarray_type type, const char* wanted,
                      std::vector<T>& out) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) reject(path, wanted, value);
  // napi_get_typedarray_info counts the byteOffset in, and gives length 0 for an array that was detached.
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(value.Env(), value, nullptr, &length, &data, nullptr, nullptr) != napi_ok) {
    reject(path, wanted, value);
  }
  const T* first = static_cast<const T*>(data);
  if (length == 0 || first == nullptr) {
    out.clear();
  } else {
    out.assign(first, first + length);
  }
}

template <typename T>
Napi::ArrayBuffer copied(Napi::Env env, const std::vector<T>& values) {
  const size_t bytes = values.size() * sizeof(T);
  auto buffer = Napi::ArrayBuffer::New(env, bytes);
  if (bytes > 0) std::memcpy(buffer.Data(), values.data(), bytes);
  return buffer;
}

// Whether sizes >= 0 multiply to exactly `count`, without overflow.
bool fills(const std::vector<int64_t>& sizes, size_t count) {
  uint64_t product = 1;
  bool empty = false;
  for (int64_t size : sizes) {
    if (size < 0) return false;
    if (size == 0) empty = true;
    if (size != 0 && product > std::numeric_limits<uint64_t>::max() / static_cast<uint64_t>(size)) return false;
    product *= size == 0 ? 1 : static_cast<uint64_t>(size);
  }
  return (empty ? 0 : product) == count;
}

}  // namespace

std::string Path::text() const {
  if (!parent) return key;
  return parent->text() + (key ? "." + std::string(key) : "[" + std::to_string(index) + "]");
}

Napi::Error make_error(Napi::Env env, const Status& status) {
  auto error = Napi::Error::New(env, status.message);
  error.Set("code", Napi::String::New(env, status.code));
  if (!status.hint.empty()) error.Set("hint", Napi::String::New(env, status.hint));
  return error;
}

void reject(const Path& path, const char* wanted, Napi::Value got) {
  reject(got.Env(), path.text() + " must be " + wanted + ", got " + value_text(got));
}

void read(Napi::Value value, const Path& path, bool& out) {
  if (!value.IsBoolean()) reject(path, "a boolean", value);
  out = value.As<Napi::Boolean>().Value();
}

void read(Napi::Value value, const Path& path, double& out) {
  if (!value.IsNumber()) reject(path, "a number", value);
  out = value.As<Napi::Number>().DoubleValue();
}

void read(Napi::Value value, const Path& path, int64_t& out) {
  out = static_cast<int64_t>(read_integer(value, path, -kMaxSafeInteger, "a safe integer"));
}

void read(Napi::Value value, const Path& path, uint64_t& out) {
  out = static_cast<uint64_t>(read_integer(value, path, 0, "a safe integer of at least 0"));
}

void read(Napi::Value value, const Path& path, std::string& out) {
  if (!value.IsString()) reject(path, "a string", value);
  out = value.As<Napi::String>().Utf8Value();
  // The system would end a path there.
  if (out.find('\0') != std::string::npos) reject(path, "a string without NUL characters", value);
}

void read(Napi::Value value, const Path& path, std::vector<float>& out) {
  read_typed_array(value, path, napi_float32_array, "a Float32Array", out);
}

void read(Napi::Value value, const Path& path, std::vector<uint8_t>& out) {
  read_typed_array(value, path, napi_uint8_array, "a Uint8Array", out);
}

void check(Napi::Env env, const Path& path, const NamedTensor& tensor) {
  if (fills(tensor.shape, tensor.data.size())) return;
  std::string shape;
  for (int64_t size : tensor.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(size);
  reject(env, path.text() + ".data must fill the shape [" + shape + "], got " + std::to_string(tensor.data.size()) +
                  " values");
}

void check(Napi::Env env, const Path& path, const Image& image) {
  if (fills({image.height, image.width, 3}, image.data.size())) return;
  reject(env, path.text() + ".data must hold " + std::to_string(image.width) + " x " + std::to_string(image.height) +
                  " RGB pixels, got " + std::to_string(image.data.size()) + " bytes");
}

Napi::Value write(Napi::Env env, std::vector<float>& it) {
  return Napi::Float32Array::New(env, it.size(), copied(env, it), 0);
}

Napi::Value write(Napi::Env env, std::vector<uint8_t>& it) {
  return Napi::Uint8Array::New(env, it.size(), copied(env, it), 0);
}

}  // namespace swap::binding
