// How long every operator of LibTorch takes in this process: an addon for bench/profile.mjs, opened after the engine.
// Outermost operators are timed, and within them, for itself, what the engine names: their sum is the time of all.
#include <ATen/core/ivalue.h>
#include <ATen/record_function.h>
#include <c10/core/GradMode.h>
#include <node_api.h>

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

struct Total {
  int64_t calls = 0;
  double seconds = 0;
};

std::atomic<bool> recording{false};
std::mutex mutex;
std::map<std::tuple<std::string, std::string, bool>, Total> totals;  // by name, shapes, on the way back

struct Frame {
  Clock::time_point begin;
  std::string name, shapes;
  bool backward;
  double within = 0;  // seconds of frames inside this one, which count for themselves
};
thread_local std::vector<Frame> frames;
thread_local int depth = 0;
thread_local bool going_back = false;  // the last operator that was not a sum belonged to a node of the graph

struct Level : at::ObserverContext {
  bool framed = false;
};

// "1x320x64x64 320x320x3x3 - [1,1]": tensors, those that are undefined, lists of integers.
std::string shapes(const at::RecordFunction& function) {
  std::ostringstream text;
  for (const auto& value : function.inputs()) {
    if (value.isTensor()) {
      const auto& tensor = value.toTensor();
      if (!tensor.defined()) {
        text << "- ";
        continue;
      }
      for (int64_t i = 0; i < tensor.dim(); ++i) text << (i ? "x" : "") << tensor.size(i);
      if (tensor.dim() == 0) text << "scalar";
      text << ' ';
    } else if (value.isIntList()) {
      text << '[';
      const auto list = value.toIntVector();
      for (size_t i = 0; i < list.size(); ++i) text << (i ? "," : "") << list[i];
      text << "] ";
    } else if (value.isTensorList()) {
      text << "{" << value.toTensorVector().size() << "} ";
    } else if (value.isNone()) {
      text << "- ";
    }
  }
  return text.str();
}

std::unique_ptr<at::ObserverContext> enter(const at::RecordFunction& function) {
  if (!recording) return nullptr;
  auto level = std::make_unique<Level>();
  const std::string name = function.name();
  // A block of layers is one node, whose operators count for themselves.
  const bool in_block = !frames.empty() && frames.back().name.ends_with("::Node>");
  const bool outermost = depth++ == 0;
  if (outermost || in_block || name.rfind("swap::", 0) == 0) {
    const bool node = name.rfind("autograd::", 0) == 0;
    // Between the nodes of the graph stand the sums of gradients.
    const bool sum = outermost && name.rfind("aten::add", 0) == 0;
    const bool inside = !frames.empty() && frames.back().backward;
    if (outermost && !sum) going_back = node;
    frames.push_back({{}, name, shapes(function), inside || node || (sum && going_back)});
    frames.back().begin = Clock::now();
    level->framed = true;
  } else if (name.find("_backward") != std::string::npos || name.find("flash_attention") != std::string::npos) {
    // A node of the graph knows the gradient's shape only; the operator that it calls knows them all.
    frames.back().shapes = shapes(function);
  }
  return level;
}

void leave(const at::RecordFunction&, at::ObserverContext* context) {
  if (!context) return;
  --depth;
  if (!static_cast<Level*>(context)->framed) return;
  const Frame frame = frames.back();
  frames.pop_back();
  const double seconds = std::chrono::duration<double>(Clock::now() - frame.begin).count();
  if (!frames.empty()) frames.back().within += seconds;
  const std::lock_guard lock(mutex);
  auto& total = totals[{frame.name, frame.shapes, frame.backward}];
  ++total.calls;
  total.seconds += seconds - frame.within;
}

napi_value start(napi_env, napi_callback_info) {
  static const auto handle =
      at::addGlobalCallback(at::RecordFunctionCallback(enter, leave)
                                .needsInputs(true)
                                .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
  (void)handle;
  const std::lock_guard lock(mutex);
  totals.clear();
  recording = true;
  return nullptr;
}

// Lines of name, shapes, 1 where gradients go back, calls, seconds; tabs between them.
napi_value stop(napi_env env, napi_callback_info) {
  recording = false;
  std::ostringstream text;
  const std::lock_guard lock(mutex);
  for (const auto& [key, total] : totals) {
    const auto& [name, shapes, backward] = key;
    text << name << '\t' << shapes << '\t' << backward << '\t' << total.calls << '\t' << total.seconds << '\n';
  }
  napi_value result = nullptr;
  napi_create_string_utf8(env, text.str().c_str(), NAPI_AUTO_LENGTH, &result);
  return result;
}

napi_value init(napi_env env, napi_value exports) {
  const napi_property_descriptor properties[] = {
      {"start", nullptr, start, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
      {"stop", nullptr, stop, nullptr, nullptr, nullptr, napi_enumerable, nullptr},
  };
  napi_define_properties(env, exports, 2, properties);
  return exports;
}

}  // namespace

NAPI_MODULE(ops, init)
