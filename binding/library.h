// Opens LibTorch's libraries and the engine's, once a process, however many JS environments ask for them.
#pragma once

#include <string>
#include <vector>

#include "../cpp/engine.h"

namespace swap::binding {

// Opens `libraries` by full path and in this order, then the engine library, and finds its factory.
// What was opened stays open for the life of the process. Thread-safe.
//   SWAP_ENGINE_ARGUMENT  a path is not absolute
//   SWAP_LIBTORCH_LOAD    a library cannot be opened; the message has the loader's words
//   SWAP_ENGINE_ABI       not an engine library, or one of another build
//   SWAP_ENGINE_FLAVOUR   another LibTorch, or another flavour of engine, is open in this process
Status open_engine(const std::vector<std::string>& libraries, const std::string& engine, const EngineFactory*& factory);

// Keeps the addon in memory until the process ends: Node unloads an addon with the last worker thread that used it,
// and what this file remembers would be forgotten.
void pin_addon();

}  // namespace swap::binding
