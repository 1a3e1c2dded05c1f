// Opens LibTorch's libraries and the engine's, once a process, however many JS environments ask for them.
#pragma once

#include <string>
#include <vector>

#include "../cpp/engine.h"

namespace swap::binding {

// Opens `libraries` by full path and in this order, then the engine library, and finds its factory.
// What was opened stays open for the life of the process. Thread-safe; the caller holds a BriefWaiting.
//   SWAP_ENGINE_ARGUMENT  a path is not absolute
//   SWAP_LIBTORCH_LOAD    a library cannot be opened; the message has the loader's words
//   SWAP_ENGINE_ABI       not an engine library, or one of another build
//   SWAP_ENGINE_FLAVOUR   another LibTorch, or another flavour of engine, is open in this process
Status open_engine(const std::vector<std::string>& libraries, const std::string& engine, const EngineFactory*& factory);

// LibTorch's OpenMP threads spin while they wait, for milliseconds, unless told otherwise when the runtime is loaded.
// On a machine that does anything else as well that is 3 to 14 times slower than sleeping (measured on two busy cores),
// and in a user's app it burns their battery. While there is one of these, the environment says that they look for
// 50 microseconds, about as long as it takes to wake one, unless the user has chosen; it is not left behind for child
// processes. Made and destroyed on a JavaScript thread alone, however the libraries are opened meanwhile: that thread
// reads the environment, and who changes it elsewhere may do so under its eyes.
class BriefWaiting {
 public:
  BriefWaiting();
  ~BriefWaiting();
  BriefWaiting(const BriefWaiting&) = delete;
  BriefWaiting& operator=(const BriefWaiting&) = delete;

 private:
  [[maybe_unused]] bool counts_ = false;
};

// Keeps the addon in memory until the process ends: Node unloads an addon with the last worker thread that used it,
// and what this file remembers would be forgotten.
void pin_addon();

}  // namespace swap::binding
